//! Control, and what machines and people look at.

use super::*;

#[test]
fn control_changes_weights_and_sleeps() {
    let app = app("qwen3", config(), 1 << 20);
    let admin = |method: &str, route: &str, body: Value| {
        let (status, _, bytes) = raw(app.admin_router(), method, route, &[], body.to_string().into_bytes());
        (status, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let ready = || raw(app.router(), "GET", "/ready", &[], Vec::new()).0;
    let pair = json!({"prompt": "q", "a": "x", "b": "y"});
    let before = ok(&app, "/v1/judge", pair.clone());
    for (down, up, asked, key) in [
        ("/sleep", "/wake_up", "/is_sleeping", "is_sleeping"),
        ("/release_memory_occupation", "/resume_memory_occupation", "/is_sleeping", "is_sleeping"),
        ("/pause", "/resume", "/is_paused", "is_paused"),
    ] {
        assert_eq!((admin("POST", down, json!({})).0, ready()), (200, 503), "{down}");
        assert_eq!(admin("GET", asked, json!({})).1[key], true);
        assert_eq!((admin("POST", up, json!({})).0, ready()), (200, 200), "{up}");
        assert_eq!(admin("GET", asked, json!({})).1[key], false);
    }
    assert_eq!(ok(&app, "/v1/judge", pair.clone())["p"], before["p"]);
    let (status, said) = admin("POST", "/update_weights_from_disk", json!({"model_path": "/nowhere"}));
    assert_eq!((status, &said["success"], &said["weight_version"]), (400, &json!(false), &json!("v0")));
    assert_eq!(ok(&app, "/v1/judge", pair.clone())["p"], before["p"]);
    let other = tempfile::tempdir().unwrap();
    let config = open(&dir("qwen3")).unwrap().config;
    Model::random(config, crate::base::dtype::Dtype::F32, 7).unwrap().save(other.path()).unwrap();
    let (status, said) =
        admin("POST", "/update_weights_from_disk", json!({"model_path": other.path(), "weight_version": "r2"}));
    assert_eq!((status, &said["success"]), (200, &json!(true)), "{said}");
    let after = ok(&app, "/v1/judge", pair);
    assert_eq!(after["weight_version"], "r2");
    assert_ne!(after["p"], before["p"]);
    assert_eq!(admin("POST", "/pause_generation", json!({"mode": "nap"})).0, 422);
    assert_eq!(admin("POST", "/pause_generation", json!({"mode": "abort"})).0, 200);
    assert_eq!(admin("POST", "/continue_generation", json!({})).0, 200);
}

#[test]
fn metrics_models_status_and_the_interface_are_there() {
    ok(&JUDGE, "/v1/judge", json!({"prompt": "q", "a": "x", "b": "y"}));
    let get = |route: &str| {
        let (status, _, bytes) = raw(JUDGE.router(), "GET", route, &[], Vec::new());
        assert_eq!(status, 200, "{route}");
        String::from_utf8(bytes).unwrap()
    };
    let metrics = get("/metrics");
    for name in [
        "requests_total{route=\"/v1/judge\",status=\"200\"}",
        "queued_tokens 0",
        "score_bucket{le=\"+Inf\"}",
        "weight_info{version=\"v0\"",
    ] {
        assert!(metrics.contains(&format!("gramophone_{name}")), "{name}: {metrics}");
    }
    let models: Value = serde_json::from_str(&get("/v1/models")).unwrap();
    assert_eq!((&models["data"][0]["id"], &models["models"][0]["name"]), (&json!("tiny"), &json!("tiny")));
    JUDGE.metrics.sample(&JUDGE);
    let status: Value = serde_json::from_str(&get("/status.json")).unwrap();
    assert!(!status["scores"].as_array().unwrap().is_empty() && status["unready"].is_null());
    let page = get("/");
    assert!(page.contains("</html>") && !page.contains("https://") && !page.contains("src="));
    let interface: Value = serde_json::from_str(&get("/openapi.json")).unwrap();
    assert!(interface["openapi"].as_str().unwrap().starts_with("3.1"));
    for route in ["/v1/judge", "/get_reward", "/v1/systemone", "/compare", "/sleep", "/rerank"] {
        assert!(interface["paths"].get(route).is_some(), "{route}");
    }
}
