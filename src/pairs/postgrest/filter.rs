//! Filters of `PostgREST`, as values of query parameters (its documentation, "Horizontal
//! Filtering").

/// `column=eq.value`: everything after the first dot is the literal value.
pub(super) fn equal(value: &str) -> String {
    format!("eq.{value}")
}

/// `column=in.("a","b")`.
pub(super) fn one_of(values: &[&str]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    format!("in.({})", values.join(","))
}

/// A quoted value inside parentheses, where `,.:()` have a special meaning.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_quotes() {
        assert_eq!(quoted("mac"), r#""mac""#);
        assert_eq!(quoted(r#"a","b.eq.c)\"#), r#""a\",\"b.eq.c)\\""#);
        assert_eq!(one_of(&["a", "b"]), r#"in.("a","b")"#);
        assert_eq!(equal("a.b"), "eq.a.b");
    }
}
