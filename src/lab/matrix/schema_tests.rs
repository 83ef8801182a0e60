//! `schema.json` accepts every result, rejects invalid ones, and names the same properties as the types.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::*;
use crate::{lab::matrix::example, lab::timeline};

fn root() -> Value {
    serde_json::from_str(JSON_SCHEMA).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::meta::validate(&root()).unwrap();
    jsonschema::draft202012::options().should_validate_formats(true).build(&root()).unwrap()
}

/// A result with every optional property.
fn full() -> LabResult {
    let mut result = example::matrix();
    result.cells[0].scenario = Some("x".into());
    result.cells[0].link.a.rate = Some(2_000_000);
    result.cells[0].max_first_picture_ms = Some(2000.0);
    result.timelines.push(timeline::schema::example());
    result
}

#[test]
fn results_are_valid_and_read_back() {
    let validator = validator();
    for result in [full(), example::result(Vec::new())] {
        let json = serde_json::to_value(&result).unwrap();
        let errors: Vec<_> =
            validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert_eq!(serde_json::from_value::<LabResult>(json).unwrap(), result);
    }
}

#[test]
fn the_required_properties_are_present() {
    let json = serde_json::to_value(full()).unwrap();
    let cell = &json["cells"][0];
    for name in ["a", "b", "expected", "measured", "type", "setupMs", "rttMs", "agree"] {
        assert!(!cell[name].is_null(), "{name}");
    }
    assert_eq!(json["schema"], "orion-peer/lab/1");
    assert_eq!((&json["agree"], &json["total"]), (&json!(79), &json!(81)));
}

#[test]
fn invalid_documents_are_rejected() {
    let validator = validator();
    for (path, wrong) in [
        ("/schema", json!("orion-peer/lab/2")),
        ("/agree", json!(-1)),
        ("/layer", json!("real")),
        ("/startedAt", json!("yesterday")),
        ("/cells/0/expected", json!("maybe")),
        ("/cells/0/type", json!("pigeon")),
        ("/cells/0/setupMs", json!("31 ms")),
        ("/cells/0/agree", json!(1)),
        ("/cells/0/link/a/loss", json!(2)),
        ("/cells/0/turn/0", json!("sctp")),
        ("/cells/41/reason/code", json!("No Pair")),
    ] {
        let mut json = serde_json::to_value(full()).unwrap();
        *json.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = wrong.clone();
        assert!(!validator.is_valid(&json), "{path}: {wrong} is accepted");
    }
    let mut later = serde_json::to_value(full()).unwrap();
    later["later"] = json!(1);
    assert!(validator.is_valid(&later), "additions of later versions are accepted");
}

/// Every property in the schema at `pointer`.
fn properties(pointer: &str) -> BTreeSet<String> {
    let root = root();
    root.pointer(pointer).unwrap()["properties"].as_object().unwrap().keys().cloned().collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_has_exactly_the_properties_that_are_written() {
    let json = serde_json::to_value(full()).unwrap();
    for (pointer, at) in [
        ("", ""),
        ("/$defs/cell", "/cells/0"),
        ("/$defs/link", "/cells/0/link/a"),
        ("/$defs/keyframe", "/cells/0/keyframe"),
        ("/$defs/failure", "/cells/41/reason"),
        ("/$defs/cell/properties/stages", "/cells/0/stages"),
        ("/$defs/cell/properties/nat", "/cells/0/nat"),
        ("/$defs/cell/properties/link", "/cells/0/link"),
    ] {
        assert_eq!(properties(pointer), keys(json.pointer(at).unwrap()), "{pointer}");
    }
}
