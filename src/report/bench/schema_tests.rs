//! `schema.json` matches what is written and read: it accepts every result, rejects other documents, and has the same
//! properties as the Rust types.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{BenchResult, JSON_SCHEMA, example};

fn schema() -> Value {
    serde_json::from_str(JSON_SCHEMA).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::meta::validate(&schema()).unwrap();
    jsonschema::draft202012::options().should_validate_formats(true).build(&schema()).unwrap()
}

fn value(result: &BenchResult) -> Value {
    serde_json::to_value(result).unwrap()
}

#[test]
fn results_are_valid() {
    let validator = validator();
    for (name, example) in [
        ("full", example::full as fn() -> _),
        ("minimal", example::minimal),
        ("empty", example::empty),
        ("partial", example::partial),
    ] {
        let result = example();
        let json = value(&result);
        let errors: Vec<_> =
            validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
        assert_eq!(serde_json::from_value::<BenchResult>(json).unwrap(), result, "{name}");
    }
}

#[test]
fn properties_of_later_versions_are_accepted() {
    let mut json = value(&example::full());
    json["connections"]["records"][0]["later"] = json!(1);
    json["later"] = json!({});
    assert!(validator().is_valid(&json));
}

#[test]
fn wrong_documents_are_rejected() {
    let validator = validator();
    for (path, wrong) in [
        ("/schema", json!("orion-peer/bench/2")),
        ("/startedAt", json!("yesterday")),
        ("/durationS", json!(-1)),
        ("/pass", json!("yes")),
        ("/connections/attempted", json!(-1)),
        ("/connections/attempted", json!(1.5)),
        ("/connections/successRate", json!(1.01)),
        ("/connections/ci95", json!([0.5])),
        ("/connections/byType/host", json!("3")),
        ("/connections/setupMs/ice/p50", json!("12 ms")),
        ("/connections/records/0/rtt/0", json!([1, 2, 3])),
        ("/connections/records/0/local", json!("wlan")),
        ("/connections/records/3/failure/stage", json!("elsewhere")),
        ("/connections/failures/0/code", json!("No pair")),
        ("/rttMs/lost", json!(-1)),
        ("/rttMs/p999", json!(-0.1)),
        ("/keyframes/bytes", Value::Null),
        ("/checks/0/unit", Value::Null),
        ("/comparison/metrics/0/verdict", json!("fine")),
    ] {
        let mut json = value(&example::full());
        *json.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = wrong.clone();
        assert!(!validator.is_valid(&json), "{path} may be {wrong}");
    }
    for missing in ["schema", "connections", "checks", "pass", "host"] {
        let mut json = value(&example::full());
        json.as_object_mut().unwrap().remove(missing).unwrap();
        assert!(!validator.is_valid(&json), "{missing} may be missing");
    }
    assert!(!validator.is_valid(&json!([])));
}

/// Keys found in each object of the schema, by its location in the schema.
type FoundKeys<'s> = BTreeMap<String, (&'s Value, BTreeSet<String>)>;

/// Walks through an instance and its schema together and records the keys of each object.
fn walk<'s>(
    root: &'s Value,
    at: &str,
    schema: &'s Value,
    instance: &Value,
    found: &mut FoundKeys<'s>,
) {
    if let Some(target) = schema["$ref"].as_str() {
        let pointer = target.strip_prefix('#').unwrap();
        return walk(root, pointer, root.pointer(pointer).unwrap(), instance, found);
    }
    if let (Some(options), false) = (schema["anyOf"].as_array(), instance.is_null()) {
        return walk(root, at, &options[0], instance, found);
    }
    if let Some(items) = instance.as_array() {
        for item in items {
            walk(root, &format!("{at}/items"), &schema["items"], item, found);
        }
    }
    let (Some(properties), Some(object)) = (schema["properties"].as_object(), instance.as_object())
    else {
        return;
    };
    let keys = &mut found.entry(at.to_owned()).or_insert((schema, BTreeSet::new())).1;
    keys.extend(object.keys().cloned());
    for (key, value) in object {
        let schema =
            properties.get(key).unwrap_or_else(|| panic!("{at}: {key} is not in the schema"));
        walk(root, &format!("{at}/properties/{key}"), schema, value, found);
    }
}

#[test]
fn the_schema_has_exactly_the_written_properties() {
    let root = schema();
    let mut found = FoundKeys::new();
    walk(&root, "", &root, &value(&example::full()), &mut found);
    // A complete run has no `ended`.
    walk(&root, "", &root, &value(&example::partial()), &mut found);
    for (at, (schema, keys)) in &found {
        let known: BTreeSet<_> =
            schema["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, &known, "at {at:?}");
    }
    let defined = root["$defs"].as_object().unwrap().keys();
    for name in defined {
        assert!(found.contains_key(&format!("/$defs/{name}")), "{name} is used nowhere");
    }
}

#[test]
fn properties_that_are_always_written_are_required() {
    let root = schema();
    let (mut result, full) = (example::minimal(), example::full());
    // Objects in lists, without their optional properties.
    result.connections.records = full.connections.records;
    for server in result.connections.records.iter_mut().flat_map(|r| &mut r.ice_servers) {
        (server.code, server.reason, server.ms) = (None, None, None);
    }
    result.checks = full.checks;
    result.checks.iter_mut().for_each(|check| check.note = None);
    (result.not_measured, result.connections.failures) =
        (full.not_measured, full.connections.failures);
    let mut found = FoundKeys::new();
    walk(&root, "", &root, &value(&result), &mut found);
    for (at, (schema, keys)) in &found {
        let required: BTreeSet<String> =
            serde_json::from_value(schema["required"].clone()).unwrap();
        assert_eq!(keys, &required, "at {at:?}");
    }
}
