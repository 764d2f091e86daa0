//! A [`Report`] as Markdown: the same blocks in the same order, without the charts.

use super::report::{Block, Figure, Report, Table};

impl Report {
    /// The page as Markdown.
    pub fn to_markdown(&self) -> String {
        let blocks: String = self.blocks.iter().map(block).collect();
        format!("# {}\n\n{}\n\n{blocks}", self.title, self.subtitle)
    }
}

fn block(block: &Block) -> String {
    match block {
        Block::Figures(figures) => figures.iter().map(figure).collect::<String>() + "\n",
        Block::Charts(..) => String::new(),
        Block::Table(t) | Block::Folded(t) => table(t),
    }
}

fn figure(figure: &Figure) -> String {
    let note = if figure.note.is_empty() { String::new() } else { format!(" ({})", figure.note) };
    format!("- {}: **{}**{note}\n", figure.label, figure.value)
}

fn table(table: &Table) -> String {
    let cell = |text: &String| text.replace('|', "\\|").replace('\n', " ");
    let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    let note = if table.note.is_empty() { String::new() } else { format!("{}\n\n", table.note) };
    format!("## {}\n\n{}|{}\n{rows}\n{note}", table.title, line(&table.columns), "---|".repeat(table.columns.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_headings_lists_and_tables() {
        let mut report = Report::new("Title", "below");
        report.push(Block::Figures(vec![Figure::new("Accuracy", "80%", "of 5"), Figure::new("Rows", "5", "")]));
        report.push(Block::Charts("Curves".into(), Vec::new()));
        report.push(Block::Table(Table::new("T", &["a", "b"], vec![vec!["x|y".into(), "1".into()]]).note("Why.")));
        let expected = "# Title\n\nbelow\n\n- Accuracy: **80%** (of 5)\n- Rows: **5**\n\n\
                        ## T\n\n| a | b |\n|---|---|\n| x\\|y | 1 |\n\nWhy.\n\n";
        assert_eq!(report.to_markdown(), expected);
    }
}
