//! The reversible rule between a rationale and its proof (GRAM-R², section 3.2).
//!
//! A *rationale* is what a judge writes: thought first, then the label. A *proof* is what a proving model writes that knows the
//! label: a header, the same thoughts, the label last. Both are [`Form`]s of the same named sections, plain-text files with places
//! for them, so a rationale becomes its proof by being read with one form and printed with the other, and back:
//!
//! ```text
//! <think>                        This shows which ...
//! Feedback:                      First, each response by itself:
//! {feedback}                     {feedback}
//!
//! Comparision:             <=>   Next, the two beside each other:
//! {comparison}                   {comparison}
//!
//! Conclusion:                    Thus, Response {label} is better.
//! Response {label} is better.
//! </think>
//! <answer>
//! {label}
//! </answer>
//! ```
//! What stands between two places separates them. A text in which a separator could be found in two ways is refused rather
//! than guessed at, so the rule has an exact inverse on all that it accepts.

use super::answer;
use super::example::{Side, Why};
use super::labels::NAMES;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

mod checks;
#[cfg(test)]
mod tests;

pub use checks::{Checks, Flaw, Leaks, Loops};

/// One layout of the sections.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    name: String,
    source: String,
    /// What stands before each place, and after the last.
    texts: Vec<String>,
    places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Label,
    Section(String),
}

/// What a text says, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The sections' texts by name.
    pub sections: BTreeMap<String, String>,
    /// The response that the text names last: its verdict.
    pub label: Side,
    /// Every place for the label names the same response.
    pub agrees: bool,
}

impl Form {
    /// Our layout of rationales, that of GRAM-R².
    pub fn rationale() -> Form {
        let text = include_str!("templates/rationale_form.txt");
        Form::parse("gramophone rationale form", text).expect("the shipped form parses")
    }

    /// Our layout of proofs.
    pub fn proof() -> Form {
        let text = include_str!("templates/proof_form.txt");
        Form::parse("gramophone proof form", text).expect("the shipped form parses")
    }

    /// Reads a form file.
    ///
    /// # Errors
    /// It cannot be read, is not text, or is no form.
    pub fn open(path: &Path) -> Result<Form> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Form::parse(&path.display().to_string(), &text).map_err(|e| e.at(path.display()))
    }

    /// Parses a form: text with `{label}`, once or more, and places such as `{feedback}` for sections, once each. Blank
    /// space around the whole does not count. Braces that hold no name are text.
    ///
    /// # Errors
    /// A field that is missing, named twice, or not separated from the one before it.
    pub fn parse(name: &str, text: &str) -> Result<Form> {
        let source = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        let (mut texts, mut places) = (vec![String::new()], Vec::new());
        let mut rest = source;
        while let Some(open) = rest.find('{') {
            let (before, behind) = rest.split_at(open);
            texts.last_mut().expect("never empty").push_str(before);
            rest = match field(behind) {
                Some(name) => {
                    if !places.is_empty() && texts.last().is_some_and(|text| text.trim().is_empty()) {
                        return Err(Error::usage(format!(
                            "nothing but blank space stands before {{{name}}}; a word there would tell it from the field before it"
                        )));
                    }
                    places.push(if name == "label" { Place::Label } else { Place::Section(name.into()) });
                    texts.push(String::new());
                    &behind[name.len() + 2..]
                }
                None => {
                    texts.last_mut().expect("never empty").push('{');
                    &behind[1..]
                }
            };
        }
        texts.last_mut().expect("never empty").push_str(rest);
        let form = Form { name: name.into(), source: source.into(), texts, places };
        if !form.places.contains(&Place::Label) {
            return Err(Error::usage("the form has no field {label}; write it where the better response is named"));
        }
        let names = form.sections();
        if names.is_empty() {
            return Err(Error::usage("the form has no section; write a field such as {feedback} where its text goes"));
        }
        match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            Some((_, name)) => Err(Error::usage(format!("the form has the section {{{name}}} twice"))),
            None => Ok(form),
        }
    }

    /// What to call the form in output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The form's text as used.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of its sections, in order.
    pub fn sections(&self) -> Vec<&str> {
        self.places.iter().filter(|place| **place != Place::Label).map(Place::name).collect()
    }

    /// The form with its places filled.
    ///
    /// # Panics
    /// A section is missing.
    pub fn print(&self, sections: &BTreeMap<String, String>, label: Side) -> String {
        let mut out = self.texts[0].clone();
        for (place, text) in self.places.iter().zip(&self.texts[1..]) {
            match place {
                Place::Label => out.push_str(NAMES[label as usize]),
                Place::Section(name) => out.push_str(&sections[name]),
            }
            out.push_str(text);
        }
        out
    }

    /// Takes a text apart. Blank space around the whole does not count.
    ///
    /// # Errors
    /// [`Flaw::Structure`]: it does not have this form, or in more than one way; or a section is empty.
    pub fn read(&self, text: &str) -> std::result::Result<Reading, Flaw> {
        let text = text.trim();
        let first = self.leftmost(text).ok_or(Flaw::Structure)?;
        // Every way to take the text apart lies between the leftmost and the rightmost.
        if self.rightmost(text).as_ref() != Some(&first) {
            return Err(Flaw::Structure);
        }
        let (mut sections, mut labels) = (BTreeMap::new(), Vec::new());
        for (place, (from, to)) in self.places.iter().zip(first) {
            let said = &text[from..to];
            match place {
                Place::Label => labels.push(side(said).ok_or(Flaw::Structure)?),
                Place::Section(_) if said.trim().is_empty() => return Err(Flaw::Structure),
                Place::Section(name) => {
                    sections.insert(name.clone(), said.to_string());
                }
            }
        }
        let label = *labels.last().expect("a form has a label");
        Ok(Reading { sections, label, agrees: labels.iter().all(|l| *l == label) })
    }

    /// The texts of the places as byte ranges, each separator taken where it first occurs.
    fn leftmost(&self, text: &str) -> Option<Vec<(usize, usize)>> {
        let (head, last) = (&self.texts[0], self.texts.last()?);
        let mut at = text.starts_with(head.as_str()).then_some(head.len())?;
        let end = text.ends_with(last.as_str()).then(|| text.len() - last.len())?;
        let mut spans = Vec::new();
        for separator in &self.texts[1..self.texts.len() - 1] {
            let found = at + text.get(at..end)?.find(separator.as_str())?;
            spans.push((at, found));
            at = found + separator.len();
        }
        (at <= end).then(|| spans.push((at, end)))?;
        Some(spans)
    }

    /// The same, each separator taken where it last occurs.
    fn rightmost(&self, text: &str) -> Option<Vec<(usize, usize)>> {
        let (head, last) = (&self.texts[0], self.texts.last()?);
        let start = text.starts_with(head.as_str()).then_some(head.len())?;
        let mut end = text.ends_with(last.as_str()).then(|| text.len() - last.len())?;
        let mut spans = Vec::new();
        for separator in self.texts[1..self.texts.len() - 1].iter().rev() {
            let found = start + text.get(start..end)?.rfind(separator.as_str())?;
            spans.push((found + separator.len(), end));
            end = found;
        }
        (start <= end).then(|| spans.push((start, end)))?;
        spans.reverse();
        Some(spans)
    }

    /// The line that names the better response first, as it reads for `label`; `None` where it has no words: a label by itself
    /// may stand in any sentence.
    fn conclusion(&self, label: Side) -> Option<String> {
        let at = self.places.iter().position(|p| *p == Place::Label).expect("a form has a label");
        let before = self.texts[at].rsplit('\n').next().unwrap_or_default();
        let after = self.texts[at + 1].split('\n').next().unwrap_or_default();
        let words = !(before.trim().is_empty() && after.trim().is_empty());
        words.then(|| format!("{before}{}{after}", NAMES[label as usize]))
    }
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Place::Label => "label",
            Place::Section(name) => name,
        }
    }
}

/// The name in `{name}...`.
fn field(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.split('}').next()?;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (text.len() > name.len() + 1 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(letters))
        .then_some(name)
}

fn side(name: &str) -> Option<Side> {
    match name {
        "A" => Some(Side::A),
        "B" => Some(Side::B),
        _ => None,
    }
}

/// Two forms of the same sections.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub rationale: Form,
    pub proof: Form,
}

impl Rule {
    /// Our wording.
    pub fn standard() -> Rule {
        Rule { rationale: Form::rationale(), proof: Form::proof() }
    }

    /// The rule of two forms.
    ///
    /// # Errors
    /// A section that only one of them has.
    pub fn new(rationale: Form, proof: Form) -> Result<Rule> {
        for (one, other) in [(&rationale, &proof), (&proof, &rationale)] {
            let missing = one.sections().into_iter().find(|name| !other.sections().contains(name));
            if let Some(name) = missing {
                return Err(Error::usage(format!(
                    "the form {} has no field {{{name}}}, but {} has; both forms hold the same sections",
                    other.name, one.name
                )));
            }
        }
        Ok(Rule { rationale, proof })
    }

    /// Opens the files that are named; ours for the others.
    ///
    /// # Errors
    /// As [`Form::open`] and [`Rule::new`].
    pub fn open(rationale: Option<&Path>, proof: Option<&Path>) -> Result<Rule> {
        let standard = Rule::standard();
        let rationale = rationale.map_or(Ok(standard.rationale), Form::open)?;
        let proof = proof.map_or(Ok(standard.proof), Form::open)?;
        Rule::new(rationale, proof)
    }

    /// The proof of a rationale.
    ///
    /// # Errors
    /// The rationale does not have its form, names both responses, or has words that would separate sections in a proof.
    pub fn prove(&self, rationale: &str) -> std::result::Result<String, Flaw> {
        let reading = self.rationale.read(rationale)?;
        self.write(&self.proof, &reading)
    }

    /// The rationale of a proof: the inverse of [`Rule::prove`].
    ///
    /// # Errors
    /// As [`Rule::prove`].
    pub fn reform(&self, proof: &str) -> std::result::Result<String, Flaw> {
        let reading = self.proof.read(proof)?;
        self.write(&self.rationale, &reading)
    }

    /// Whether rationales of this form are replies that a judge may give: after a prompt that ends with `<think>` (true), or
    /// any other (false).
    pub fn reply(&self) -> Option<bool> {
        let sections = self.rationale.sections().into_iter().map(|name| (name.to_string(), "x".to_string())).collect();
        let text = self.rationale.print(&sections, Side::A);
        [false, true].into_iter().find(|opened| answer::parse(&text, *opened).is_ok())
    }

    /// What a row says in words, as sections.
    ///
    /// # Errors
    /// As [`Rule::prove`]; sections that the forms do not have; [`Flaw::Verdict`] if it speaks for the other response.
    pub fn reading(&self, why: &Why, label: Side) -> std::result::Result<Reading, Flaw> {
        let reading = match why {
            Why::Text(text) => self.rationale.read(text)?,
            Why::Sections(given) => {
                let sections: BTreeMap<String, String> =
                    given.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
                let names = self.rationale.sections();
                if names.len() != sections.len() || names.iter().any(|name| !sections.contains_key(*name)) {
                    return Err(Flaw::Structure);
                }
                Reading { sections, label, agrees: true }
            }
        };
        match reading {
            Reading { agrees: false, .. } => Err(Flaw::Conclusion),
            reading if reading.label != label => Err(Flaw::Verdict),
            reading => Ok(reading),
        }
    }

    /// Prints a reading so that it can be read back.
    ///
    /// # Errors
    /// It cannot: a section holds what separates sections in this form.
    pub fn write(&self, form: &Form, reading: &Reading) -> std::result::Result<String, Flaw> {
        if !reading.agrees {
            return Err(Flaw::Conclusion);
        }
        let text = form.print(&reading.sections, reading.label);
        match form.read(&text)? == *reading {
            true => Ok(text),
            false => Err(Flaw::Structure),
        }
    }
}
