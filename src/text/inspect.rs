//! Examples as a person wants to see them before training: the rendered text, the ids, and what is learned where.

use std::fmt::Write;
use std::ops::Range;

use crate::error::Result;
use crate::text::chat::Rendered;
use crate::text::corpus::Corpus;
use crate::text::encode::Draft;

/// A rendered text, and which of its tokens are learned.
struct View<'a> {
    text: &'a str,
    hidden: &'a [Range<usize>],
    cut: Option<usize>,
    learned: Range<usize>,
}

impl View<'_> {
    fn of(rendered: &Rendered) -> View<'_> {
        View { text: &rendered.text, hidden: &rendered.hidden, cut: None, learned: 0..0 }
    }
}

/// Shows the first `n` examples of a corpus as epoch 0 shows them. Of each token: its position, `>` if it is learned (`.` if
/// it is only read), its id and the text it stands for.
pub fn inspect(corpus: &Corpus, n: usize) -> Result<String> {
    let mut out = String::new();
    for i in 0..n.min(corpus.len()) {
        let record = corpus.record(i);
        let first = corpus.first(i, 0);
        let draft = corpus.encoder().draft(&record.example, first).map_err(|e| e.at(&record.place))?;
        let _ = writeln!(
            out,
            "example {i}  {}  {}  stage {}",
            record.place,
            record.example.kind(),
            corpus.encoder().stage.name()
        );
        let Ok(draft) = draft else { continue };
        match draft {
            Draft::Tokens(c) => {
                let learned = c.start.max(1)..c.ids.len();
                let _ = writeln!(out, "{} tokens, {} learned", c.ids.len(), learned.len());
                show(corpus, View { text: &c.text, hidden: &c.hidden, cut: c.cut, learned }, &mut out)?;
            }
            Draft::Verdict(prompt, label) => {
                let _ = writeln!(out, "{} tokens, then {label:?} is the better one", prompt.ids.len());
                show(corpus, View::of(&prompt), &mut out)?;
                let _ = writeln!(out, "  {:>6} > {label:?}", prompt.ids.len());
            }
            Draft::Scalar { chosen, rejected, margin } => {
                for (name, side) in [("chosen", chosen), ("rejected", rejected)] {
                    let _ =
                        writeln!(out, "{name}: {} tokens, reward read at the last; margin {margin}", side.ids.len());
                    show(corpus, View::of(&side), &mut out)?;
                }
            }
        }
        out.push('\n');
    }
    Ok(out)
}

fn show(corpus: &Corpus, view: View, out: &mut String) -> Result<()> {
    for line in view.text.split('\n') {
        let _ = writeln!(out, "  | {line}");
    }
    let pieces = corpus.encoder().chat.pieces(view.text, view.hidden, view.cut.as_slice())?;
    for (t, piece) in pieces.iter().enumerate() {
        let mark = if view.learned.contains(&t) { '>' } else { '.' };
        let text = view.text.get(piece.bytes.clone()).unwrap_or("");
        let _ = writeln!(out, "  {t:>6} {mark} {:>7}  {text:?}", piece.id);
    }
    Ok(())
}
