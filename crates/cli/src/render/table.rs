//! Aligned tables without lines: a header, columns, two spaces between them.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};

use super::paint::Paint;

/// A table of text.
#[derive(Debug)]
pub(crate) struct Rows {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// A table with these columns. A name that ends with `>` has its column to the right, as numbers want it.
    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Rows {
        Rows { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// The lines of the table.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if paint.on {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            self.header.iter().map(|name| Cell::new(name.trim_end_matches('>')).add_attribute(Attribute::Bold)),
        );
        for row in &self.rows {
            table.add_row(row);
        }
        for (column, name) in table.column_iter_mut().zip(&self.header) {
            column.set_padding((0, 2));
            if name.ends_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::new(["stage", "steps>"]);
        rows.push(["größer", "5"]);
        rows.push(["a", "1,000"]);
        rows
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "stage   steps\ngrößer      5\na       1,000";
        assert_eq!(rows().render(Paint { on: false }), expected);
    }

    #[test]
    fn headers_stand_out_on_a_terminal_only() {
        assert!(rows().render(Paint { on: true }).contains("\x1b[1m"));
        assert!(!rows().render(Paint { on: false }).contains('\x1b'));
    }
}
