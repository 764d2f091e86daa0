//! The compiled half of the Python package: a [`Service`] behind the interpreter. Texts and bytes cross the border; what they mean to people
//! (arrays, results, names) is Python's half, `python/gramophone`.

mod border;

use border::{Prompt, column, refused};
use engine::base::dtype::Dtype;
use engine::device::Device;
use engine::error::Error;
use engine::model::config::HeadKind;
use engine::reward::batch::{self, Ended};
use engine::reward::judge::Pair;
use engine::reward::open::{AdapterPlace, Opening, Serving};
use engine::reward::rank::{Method, Rules};
use engine::reward::service::{Answered, Failure, Group, Judged, Options, Ranked, Service, Texts, Ticket};
use engine::text::jinja::Date;
use engine::text::policy;
use engine::text::template::JudgeTemplate;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// A model, its queue, and the thread that computes. Calls release the interpreter and come back for Ctrl-C.
#[pyclass(frozen, module = "gramophone._gramophone")]
struct Engine {
    /// None once closed.
    service: Mutex<Option<Service>>,
    /// Threads do not follow a fork.
    process: u32,
}

/// Orders, scores, comparisons and, unless it is a scalar model, `(i, j, P(i beats j))` of what was compared.
type Order = (Vec<usize>, Vec<f64>, usize, Option<Vec<(usize, usize, f64)>>);

impl Engine {
    fn service(&self) -> PyResult<Service> {
        if std::process::id() != self.process {
            let message = "this judge was opened by another process, and its worker thread did not follow the fork; \
                           open one here, or start workers with the method \"spawn\"";
            return Err(refused("Stopped", message));
        }
        let service = self.service.lock().unwrap_or_else(|e| e.into_inner()).clone();
        service.ok_or_else(|| refused("Stopped", "this judge is closed"))
    }

    /// Answers of all `work`, in its order, without the interpreter.
    fn all<I: Send + Sync, W, T: Send>(
        &self,
        py: Python,
        what: &str,
        (timeout, priority): (Option<f64>, i32),
        items: &[I],
        prepare: impl Fn(&Service, &I) -> Result<W, Error> + Send + Sync,
        submit: impl Fn(&Service, &W, Options) -> Result<Ticket<Answered<T>>, Failure> + Send + Sync,
    ) -> PyResult<Vec<T>> {
        let (service, deadline) = (self.service()?, border::seconds(timeout)?.map(|left| Instant::now() + left));
        let options = Options { deadline, priority };
        let answered = py.detach(|| {
            let work = items.iter().map(|item| prepare(&service, item).map_err(Failure::Invalid));
            let submit = |piece: &W| submit(&service, piece, options);
            batch::all(work, deadline, submit, || Python::attach(|py| py.check_signals()))
        });
        match answered {
            Ok(answers) => Ok(answers.into_iter().map(|answered| answered.answer).collect()),
            Err(Ended::At(place, failure)) => Err(border::failed(py, &format!("{what}[{place}]"), failure)),
            Err(Ended::Stopped(signal)) => Err(signal),
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, device, threads, adapter, template, template_date, dtype, context, queue_tokens, weight_version))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python,
        model: PathBuf,
        device: &str,
        threads: usize,
        adapter: Option<PathBuf>,
        template: Option<PathBuf>,
        template_date: Option<&str>,
        dtype: &str,
        context: Option<usize>,
        queue_tokens: Option<usize>,
        weight_version: String,
    ) -> PyResult<Engine> {
        let open = || {
            let dev = Device::open(device, threads)?;
            let adapters = adapter.map(|dir| AdapterPlace { name: None, dir }).into_iter().collect();
            let date = template_date.map(Date::parse).transpose()?;
            let dtype = match dtype {
                "auto" => None,
                "f32" => Some(Dtype::F32),
                "bf16" => Some(Dtype::Bf16),
                other => return Err(Error::usage(format!("dtype {other:?}: there are auto, f32 and bf16"))),
            };
            let template = template.map(|file| JudgeTemplate::open(&file)).transpose()?;
            let default = Serving::default();
            let queue = queue_tokens.unwrap_or(default.queue);
            let serving = Serving { template, queue, version: weight_version, ..default };
            Opening { model, adapters, context, date, dtype }.open(&dev)?.service(dev, serving)
        };
        let service = py.detach(open).map_err(|e| border::error(&e))?;
        Ok(Engine { service: Mutex::new(Some(service)), process: std::process::id() })
    }

    /// Columns of judgments as bytes, by name.
    fn judge<'py>(
        &self,
        py: Python<'py>,
        pairs: Vec<(Prompt, String, String)>,
        timeout: Option<f64>,
        priority: i32,
    ) -> PyResult<Bound<'py, PyDict>> {
        let prepare = |service: &Service, (prompt, a, b): &(Prompt, String, String)| {
            service.texts().pair(&Pair { prompt: prompt.read()?, a: a.clone(), b: b.clone() })
        };
        let judged: Vec<Judged> =
            self.all(py, "pairs", (timeout, priority), &pairs, prepare, |service, pair, options| {
                service.judge(pair.clone(), options)
            })?;
        border::columns(py, &judged, self.service()?.head())
    }

    /// For each group its order, scores, comparisons, and what was compared.
    #[pyo3(signature = (groups, method, anchors, confidence, timeout, priority))]
    #[allow(clippy::too_many_arguments)]
    fn rank(
        &self,
        py: Python,
        groups: Vec<(Prompt, Vec<String>)>,
        method: &str,
        anchors: Option<usize>,
        confidence: Option<f64>,
        timeout: Option<f64>,
        priority: i32,
    ) -> PyResult<Vec<Order>> {
        let mut method: Method =
            method.parse().map_err(|e: String| refused("InvalidInput", &format!("method: {e}")))?;
        match (&mut method, anchors, confidence) {
            (_, None, None) => {}
            (Method::Anchor { anchors }, Some(n), None) => *anchors = n,
            (Method::Adaptive { confidence }, None, Some(c)) => *confidence = c,
            _ => {
                let message = "anchors go with the method anchor, and a confidence with the method adaptive";
                return Err(refused("InvalidInput", message));
            }
        }
        let rules = Rules::new(method, None).map_err(|e| refused("InvalidInput", &e.to_string()))?;
        let prepare = |_: &Service, (prompt, responses): &(Prompt, Vec<String>)| {
            Ok(Group { prompt: prompt.read()?, responses: responses.clone(), rules })
        };
        let ranked: Vec<Ranked> =
            self.all(py, "groups", (timeout, priority), &groups, prepare, |service, group, options| {
                service.rank(group.clone(), options)
            })?;
        let order = |ranked: &Ranked| {
            let (comparisons, wins) = match ranked {
                Ranked::Compared { ranking, wins } => {
                    (ranking.comparisons, Some(wins.iter().map(|((i, j), p)| (*i, *j, *p)).collect()))
                }
                Ranked::Rewards(_) => (0, None),
            };
            (ranked.order(), ranked.scores(), comparisons, wins)
        };
        Ok(ranked.iter().map(order).collect())
    }

    /// Logits of labels at the ends of prompts, and log-sum-exps, as bytes of float32. `ids` are int32, end to end.
    fn label_logits<'py>(
        &self,
        py: Python<'py>,
        ids: &[u8],
        lengths: Vec<usize>,
        labels: Vec<i32>,
        timeout: Option<f64>,
        priority: i32,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let prompts = border::prompts(ids, &lengths)?;
        let prepare = |_: &Service, ids: &Vec<i32>| Ok(ids.clone());
        let read = self.all(py, "prompts", (timeout, priority), &prompts, prepare, |service, ids, options| {
            service.labels(ids.clone(), labels.clone(), options)
        })?;
        let logits: Vec<u8> = read.iter().flat_map(|r| &r.logits).flat_map(|z| z.to_le_bytes()).collect();
        Ok((PyBytes::new(py, &logits), PyBytes::new(py, &column(&read, |r| r.lse.to_le_bytes()))))
    }

    /// Rewards of conversations, from a scalar model, as bytes of float32.
    fn rewards<'py>(
        &self,
        py: Python<'py>,
        ids: &[u8],
        lengths: Vec<usize>,
        timeout: Option<f64>,
        priority: i32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let prompts = border::prompts(ids, &lengths)?;
        let prepare = |_: &Service, ids: &Vec<i32>| Ok(ids.clone());
        let read: Vec<f32> =
            self.all(py, "prompts", (timeout, priority), &prompts, prepare, |service, ids, options| {
                service.reward(ids.clone(), options)
            })?;
        Ok(PyBytes::new(py, &column(&read, |r| r.to_le_bytes())))
    }

    /// The judge prompts of a pair as token ids, in both orders.
    fn encode(&self, py: Python, prompt: Prompt, a: &str, b: &str) -> PyResult<(Vec<i32>, Vec<i32>)> {
        let service = self.service()?;
        let encode = || match service.texts() {
            Texts::Pairwise(prompts) => {
                let pair = prompts.pair(&Pair { prompt: prompt.read()?, a: a.into(), b: b.into() })?;
                Ok((pair.ab, pair.ba))
            }
            Texts::Scalar(_) => Err(Error::model("this model has a scalar head: it has no judge prompt")),
        };
        py.detach(encode).map_err(|e| border::error(&e))
    }

    /// The token ids that mean "A is better" and "B is better"; none of a scalar model.
    #[getter]
    fn labels(&self) -> PyResult<Option<(i32, i32)>> {
        Ok(match self.service()?.texts() {
            Texts::Pairwise(prompts) => Some((prompts.labels.a, prompts.labels.b)),
            Texts::Scalar(_) => None,
        })
    }
    #[getter]
    fn scalar(&self) -> PyResult<bool> {
        Ok(self.service()?.head() == HeadKind::Scalar)
    }
    #[getter]
    fn context(&self) -> PyResult<usize> {
        Ok(self.service()?.sizes().context)
    }
    #[getter]
    fn weight_version(&self) -> PyResult<String> {
        Ok(self.service()?.version().to_string())
    }
    /// Requests and tokens that wait or run.
    #[getter]
    fn load(&self) -> PyResult<(usize, usize)> {
        let load = self.service()?.load();
        Ok((load.in_flight, load.queued_tokens + load.running_tokens))
    }

    /// Goes on with other weights for the same tokenizer.
    fn reload(&self, py: Python, model: PathBuf, weight_version: &str) -> PyResult<()> {
        let service = self.service()?;
        py.detach(|| service.reload(&model, weight_version)).map_err(|e| border::error(&e))
    }

    /// Ends the worker once calls that run have their answers.
    fn close(&self, py: Python) {
        let service = self.service.lock().unwrap_or_else(|e| e.into_inner()).take();
        if std::process::id() == self.process {
            py.detach(|| drop(service));
        } else {
            // There is no worker here to wait for.
            std::mem::forget(service);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            std::mem::forget(self.service.lock().unwrap_or_else(|e| e.into_inner()).take());
        }
    }
}

/// The messages, as JSON, of a conversation that a policy's chat template has rendered.
#[pyfunction]
fn turns(rendered: &str) -> String {
    border::json(&policy::turns(rendered))
}

/// A response without the control tokens at its end.
#[pyfunction]
fn response(text: &str) -> &str {
    policy::response(text)
}

/// The prompt's messages, as JSON, and the response in a whole rendered text.
#[pyfunction]
fn split(query: &str, prompt: &str) -> (String, String) {
    let (turns, response) = policy::split(query, prompt);
    (border::json(&turns), response)
}

#[pymodule]
fn _gramophone(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<Engine>()?;
    m.add_function(wrap_pyfunction!(turns, m)?)?;
    m.add_function(wrap_pyfunction!(response, m)?)?;
    m.add_function(wrap_pyfunction!(split, m)?)
}
