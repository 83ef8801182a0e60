//! The frame of every page: head, style sheet, content security policy.

use super::markup::esc;

/// Renders a whole page: `title` is text, `style` is CSS in addition to the common style sheet, `body` is HTML.
pub(crate) fn document(title: &str, style: &str, body: &str) -> String {
    let common = include_str!("style.css");
    let patterns = include_str!("patterns.svg");
    // If markup ever slips in from a result, the policy keeps it from loading or running anything.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{common}{style}</style>\n</head>\n\
         <body>\n{patterns}<main>\n{body}</main>\n</body>\n</html>\n",
        esc(title)
    )
}
