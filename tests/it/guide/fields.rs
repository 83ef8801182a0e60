//! The tables of fields in `files.md`, generated from the schemas of every JSON output.

use std::{fmt::Write, fs};

use serde_json::Value;

use super::{generated, root};

/// Title of the section, and path of the schema relative to `src/`.
const SCHEMAS: [(&str, &str); 8] = [
    ("`frames.jsonl`", "report/schemas/frames.json"),
    ("`keyframes.jsonl`", "report/schemas/keyframes.json"),
    ("Lines of send, recv and demo", "report/schemas/lines.json"),
    ("bench", "report/bench/schema.json"),
    ("lab", "lab/matrix/schema.json"),
    ("check", "check/schema.json"),
    ("load", "load/schema.json"),
    ("doctor", "doctor/schema.json"),
];

#[test]
fn files_lists_every_field_of_every_schema() {
    let mut text = "\n".to_owned();
    for (title, file) in SCHEMAS {
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(root().join("src").join(file)).unwrap())
                .unwrap();
        write!(text, "## {title}\n\n{}\n\nSchema: `src/{file}`.\n\n", about(&schema)).unwrap();
        section(&schema, &mut text);
        let named = schema["$defs"].as_object().into_iter().flatten();
        for (name, schema) in named.filter(|(_, schema)| is_structure(schema)) {
            let about = about(schema);
            let dash = if about.is_empty() { "" } else { ": " };
            write!(text, "**`{name}`**{dash}{about}\n\n").unwrap();
            section(schema, &mut text);
        }
    }
    generated("files.md", &text);
}

/// Whether a schema has fields or variants, and not only a type.
fn is_structure(schema: &Value) -> bool {
    !schema["properties"].is_null() || !schema["oneOf"].is_null()
}

fn section(schema: &Value, text: &mut String) {
    let mut rows = String::new();
    fields(schema, "", &mut rows);
    if !rows.is_empty() {
        write!(text, "| field | type | meaning |\n|---|---|---|\n{rows}\n").unwrap();
    } else if let Some(kinds) = schema["oneOf"].as_array() {
        let kinds: Vec<String> = kinds.iter().map(kind).collect();
        write!(text, "One of: {}.\n\n", kinds.join(", ")).unwrap();
    }
}

fn fields(schema: &Value, prefix: &str, rows: &mut String) {
    let required = schema["required"].as_array();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let optional = !required.is_some_and(|names| names.iter().any(|known| known == name));
        let mark = if optional { "?" } else { "" };
        writeln!(rows, "| `{prefix}{name}`{mark} | {} | {} |", kind(field), about(field)).unwrap();
        fields(field, &format!("{prefix}{name}."), rows);
        for one in field["anyOf"].as_array().into_iter().flatten() {
            fields(one, &format!("{prefix}{name}."), rows);
        }
        fields(&field["items"], &format!("{prefix}{name}[]."), rows);
        fields(&field["additionalProperties"], &format!("{prefix}{name}.*."), rows);
    }
}

fn kind(schema: &Value) -> String {
    let list = |values: &[Value]| {
        let quoted = |value: &Value| match value {
            Value::String(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        values.iter().map(quoted).collect::<Vec<_>>().join(", ")
    };
    if let Some(name) = schema["$ref"].as_str() {
        return format!("`{}`", name.rsplit('/').next().unwrap_or(name));
    }
    if let Some(values) = schema["enum"].as_array() {
        return list(values);
    }
    if !schema["const"].is_null() {
        return list(std::slice::from_ref(&schema["const"]));
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(kinds) = schema[key].as_array() {
            return kinds.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    let name = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "array" if schema["items"].is_object() => {
            format!("list of {}", self::kind(&schema["items"]))
        }
        "array" => "list".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(name).collect::<Vec<_>>().join(" or "),
        Value::Null => "any".to_owned(),
        one => name(one),
    }
}

/// The description, escaped for a Markdown table.
fn about(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.replace('|', "\\|").replace('[', "\\[").replace('<', "\\<").replace('\n', " ")
}
