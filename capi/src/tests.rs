use super::*;
use crate::types::Side;
use std::ffi::CString;
use std::ptr::{null, null_mut};

fn model(case: &str) -> CString {
    let root = std::env::var("GRAMOPHONE_ROOT").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/..").into());
    CString::new(format!("{root}/tests/golden/{case}")).unwrap()
}

/// A judge that closes itself.
struct Open(*mut Judge);

impl Drop for Open {
    fn drop(&mut self) {
        unsafe { gramophone_close(self.0) }
    }
}

unsafe impl Sync for Open {}

fn open(case: &str, options: &Options) -> Open {
    let mut judge = null_mut();
    let status = unsafe { gramophone_open(model(case).as_ptr(), options, &mut judge) };
    assert_eq!(status, Status::Ok, "{}", error());
    Open(judge)
}

fn error() -> String {
    unsafe { CStr::from_ptr(gramophone_last_error()) }.to_str().unwrap().into()
}

fn pair<'a>(prompt: &'a CStr, a: &'a CStr, b: &'a CStr) -> Pair {
    Pair { prompt: prompt.as_ptr(), messages: null(), response_a: a.as_ptr(), response_b: b.as_ptr() }
}

const NOTHING: Judgment = Judgment {
    p_a: -1.0,
    label_mass: 0.0,
    margin_ab: 0.0,
    margin_ba: 0.0,
    reward_a: 0.0,
    reward_b: 0.0,
    verdict: Side::Tie,
    consistent: false,
};

fn judge(judge: &Open, pairs: &[Pair]) -> Result<Vec<Judgment>, (Status, String)> {
    let mut out = vec![NOTHING; pairs.len()];
    match unsafe { gramophone_judge(judge.0, pairs.as_ptr(), pairs.len(), 0.0, out.as_mut_ptr()) } {
        Status::Ok => Ok(out),
        status => Err((status, error())),
    }
}

#[test]
fn threads_share_one_handle_and_get_the_same_bits() {
    let one = open("qwen3", &Options { threads: 1, ..Options::default() });
    // A queue that hardly holds one pair.
    let tight = open("qwen3", &Options { threads: 1, queue_tokens: 2500, ..Options::default() });
    let texts: Vec<CString> = (0..6).map(|i| CString::new("word ".repeat(i)).unwrap()).collect();
    let pairs = || texts.iter().map(|t| pair(c"Which?", t, c"no")).collect::<Vec<Pair>>();
    let expected = judge(&one, &pairs()).unwrap();
    let bits = |j: &Judgment| (j.p_a.to_bits(), j.margin_ab.to_bits(), j.margin_ba.to_bits(), j.verdict, j.consistent);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let found = judge(&tight, &pairs()).unwrap();
                assert!(found.iter().map(bits).eq(expected.iter().map(bits)));
            });
        }
    });
    // What crosses the border is what the judge says.
    assert_eq!(expected[2].verdict == Side::A, expected[2].margin_ab > expected[2].margin_ba);
    assert!(expected.iter().all(|j| j.p_a > 0.0 && j.p_a < 1.0 && j.reward_a.is_nan() && j.label_mass > 0.0));
    // Messages say what a text says.
    let mut as_messages = pairs();
    let messages = c"[{\"role\": \"user\", \"content\": \"Which?\"}]";
    as_messages.iter_mut().for_each(|p| (p.prompt, p.messages) = (null(), messages.as_ptr()));
    assert!(judge(&one, &as_messages).unwrap().iter().map(bits).eq(expected.iter().map(bits)));
}

#[test]
fn ranking_agrees_with_judging_and_scalar_models_give_rewards() {
    let one = open("qwen2", &Options::default());
    let responses = [c"yes", c"no", c"perhaps not"];
    let pointers = responses.map(CStr::as_ptr);
    let (mut order, mut scores, mut comparisons) = ([9; 3], [0.0; 3], 0);
    let rank = |judge: &Open, method: *const c_char, order: &mut [usize; 3], scores: &mut [f64; 3], n: &mut usize| unsafe {
        let (order, scores) = (order.as_mut_ptr(), scores.as_mut_ptr());
        gramophone_rank(judge.0, c"Which?".as_ptr(), null(), pointers.as_ptr(), 3, method, 9e3, order, scores, n)
    };
    assert_eq!(rank(&one, null(), &mut order, &mut scores, &mut comparisons), Status::Ok, "{}", error());
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|(i, j)| pair(c"Which?", responses[i], responses[j]));
    let p: Vec<f64> = judge(&one, &pairs).unwrap().iter().map(|j| j.p_a).collect();
    let means = [(p[0] + p[1]) / 2.0, (1.0 - p[0] + p[2]) / 2.0, (1.0 - p[1] + 1.0 - p[2]) / 2.0];
    assert!(scores.iter().zip(means).all(|(s, m)| (s - m).abs() < 1e-12), "{scores:?} {means:?}");
    assert!(scores[order[0]] >= scores[order[1]] && scores[order[1]] >= scores[order[2]] && comparisons == 3);
    let unknown = rank(&one, c"best".as_ptr(), &mut order, &mut scores, &mut comparisons);
    assert!(unknown == Status::Usage && error().starts_with("method: there is no method \"best\""), "{}", error());

    let scalar = open("qwen3_scalar", &Options::default());
    let j = judge(&scalar, &[pair(c"Which?", responses[0], responses[1])]).unwrap()[0];
    assert!(j.margin_ab.is_nan() && (j.reward_a > j.reward_b) == (j.verdict == Side::A));
    assert_eq!(rank(&scalar, null(), &mut order, &mut scores, &mut comparisons), Status::Ok);
    assert_eq!((scores[0], scores[1], comparisons), (j.reward_a as f64, j.reward_b as f64, 0));
    let status = unsafe { gramophone_labels(scalar.0, &mut 0, &mut 0) };
    assert!(status == Status::Model && error().contains("scalar head"), "{}", error());
}

#[test]
fn ids_are_scored_where_they_lie() {
    let one = open("llama", &Options::default());
    let (ids, offsets, (mut a, mut b)) = ([5, 6, 7, 8, 9, 10], [0, 2, 6], (0, 0));
    assert_eq!(unsafe { gramophone_labels(one.0, &mut a, &mut b) }, Status::Ok);
    let (mut logits, mut lse) = ([0f32; 4], [0f32; 2]);
    let read = |logits: *mut f32, lse: *mut f32, offsets: &[usize; 3], labels: &[i32]| unsafe {
        let (n, labels) = (labels.len(), labels.as_ptr());
        gramophone_label_logits(one.0, ids.as_ptr(), offsets.as_ptr(), 2, labels, n, 0.0, logits, lse)
    };
    assert_eq!(read(logits.as_mut_ptr(), lse.as_mut_ptr(), &offsets, &[a, b]), Status::Ok, "{}", error());
    let mut swapped = [0f32; 4];
    assert_eq!(read(swapped.as_mut_ptr(), null_mut(), &offsets, &[b, a]), Status::Ok);
    assert_eq!(swapped, [logits[1], logits[0], logits[3], logits[2]]);
    assert!(lse[0] > logits[0] && lse[1] > logits[2] && logits[0] != logits[2]);
    assert_eq!(read(logits.as_mut_ptr(), null_mut(), &[0, 3, 2], &[a]), Status::Usage);
    assert_eq!(error(), "offsets[2] is 2, before offsets[1], which is 3");
    assert_eq!(read(logits.as_mut_ptr(), null_mut(), &offsets, &[99999]), Status::Data);
    assert!(error().starts_with("prompts[0]: label 99999 is outside"), "{}", error());
    let status = unsafe { gramophone_rewards(one.0, ids.as_ptr(), offsets.as_ptr(), 2, 0.0, logits.as_mut_ptr()) };
    assert!(status == Status::Model && error().contains("without a reward head"), "{}", error());
}

#[test]
fn what_is_wrong_is_named() {
    let one = open("llama", &Options::default());
    let good = pair(c"p", c"a", c"b");
    let bad = |change: fn(&mut Pair)| {
        let mut pair = pair(c"p", c"a", c"b");
        change(&mut pair);
        judge(&one, &[Pair { ..pair }, Pair { ..good_again() }]).unwrap_err()
    };
    fn good_again() -> Pair {
        Pair { prompt: c"p".as_ptr(), messages: null(), response_a: c"a".as_ptr(), response_b: c"b".as_ptr() }
    }
    const LATIN: &CStr = c"caf\xe9";
    for (found, status, message) in [
        (bad(|p| p.response_b = null()), Status::Usage, "pairs[0].response_b is null"),
        (bad(|p| p.response_a = LATIN.as_ptr()), Status::Usage, "pairs[0].response_a is not UTF-8 from byte 3 on"),
        (bad(|p| p.prompt = null()), Status::Usage, "pairs[0].prompt and pairs[0].messages are null"),
        (bad(|p| p.messages = c"[]".as_ptr()), Status::Usage, "both given"),
        (bad(|p| (p.prompt, p.messages) = (null(), c"[".as_ptr())), Status::Usage, "pairs[0].messages is not JSON"),
        (bad(|p| (p.prompt, p.messages) = (null(), c"[]".as_ptr())), Status::Usage, "empty list"),
        (bad(|p| (p.prompt, p.messages) = (null(), c"[3]".as_ptr())), Status::Data, "pairs[0].messages: a message"),
    ] {
        assert!(found.0 == status && found.1.contains(message), "{found:?}, not {message}");
    }
    unsafe {
        let out = &mut [NOTHING];
        assert_eq!(gramophone_judge(null(), &good, 1, 0.0, out.as_mut_ptr()), Status::Usage);
        assert_eq!(error(), "judge is null");
        assert_eq!(gramophone_judge(one.0, null(), 1, 0.0, out.as_mut_ptr()), Status::Usage);
        assert_eq!(gramophone_judge(one.0, &good, 1, 0.0, null_mut()), Status::Usage);
        assert_eq!(error(), "judgments is null");
        assert_eq!(gramophone_judge(one.0, &good, 1, f64::NAN, out.as_mut_ptr()), Status::Usage);
        assert_eq!(gramophone_judge(one.0, &good, 1, 1e-9, out.as_mut_ptr()), Status::Late, "{}", error());
        assert_eq!(gramophone_judge(one.0, null(), 0, 0.0, null_mut()), Status::Ok);
        assert_eq!(out[0].p_a, -1.0, "nothing was written");
        gramophone_close(null_mut());
    }
    let long = CString::new("word ".repeat(5000)).unwrap();
    let too_long = judge(&one, &[good_again(), pair(c"p", &long, c"b")]).unwrap_err();
    assert!(too_long.0 == Status::TooLong && too_long.1.starts_with("pairs[1]: "), "{too_long:?}");
}

#[test]
fn a_judge_that_cannot_be_opened_says_why() {
    let open = |model: *const c_char, options: Options| {
        let mut judge = null_mut();
        let status = unsafe { gramophone_open(model, &options, &mut judge) };
        assert!(judge.is_null() && status != Status::Ok);
        (status, error())
    };
    let missing = open(c"/no/such/model".as_ptr(), Options::default());
    assert!(missing.0 == Status::Model && missing.1.contains("/no/such/model"), "{missing:?}");
    assert_eq!(open(null(), Options::default()), (Status::Usage, "model is null".into()));
    let llama = model("llama");
    let with = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        open(llama.as_ptr(), options)
    };
    for (found, status, message) in [
        (with(|o| o.device = c"tpu".as_ptr()), Status::Usage, "unknown device"),
        (with(|o| o.context = 99999), Status::Usage, "99999"),
        (with(|o| o.dtype = c"int4".as_ptr()), Status::Usage, "options.dtype is \"int4\""),
        (with(|o| o.template_date = c"soon".as_ptr()), Status::Usage, "soon"),
        (with(|o| o.template_file = c"/no/such/file".as_ptr()), Status::Io, "/no/such/file"),
        (with(|o| o.adapter = c"/no/adapter".as_ptr()), Status::Model, "/no/adapter"),
    ] {
        assert!(found.0 == status && found.1.contains(message), "{found:?}, not {message}");
    }
    let judge = unsafe { gramophone_open(llama.as_ptr(), null(), null_mut()) };
    assert_eq!((judge, error().as_str()), (Status::Usage, "judge is null"));
}

#[test]
fn panics_stop_at_the_border() {
    let status = guarded(|| panic!("a fault at {}", 7));
    assert_eq!((status, error().as_str()), (Status::Panic, "the library failed: a fault at 7"));
    std::thread::spawn(|| assert_eq!(error(), "", "another thread's error")).join().unwrap();
    assert_eq!(unsafe { CStr::from_ptr(gramophone_version()) }.to_str(), Ok(env!("CARGO_PKG_VERSION")));
}
