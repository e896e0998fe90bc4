//! How what is wanted differs from what is there. Values of Secrets never stand in it.

use serde_json::Value;

/// Differences that are listed; a plan is for people.
const LISTED_MAX: usize = 20;

/// JSON pointers of what `wanted` says and `live` does not, each with both values in short. Fields that only `live` has are the
/// cluster's defaults. Labels and annotations by which we mark objects do not count.
pub fn differences(wanted: &Value, live: &Value) -> Vec<String> {
    let is_secret = wanted["kind"] == "Secret";
    let mut found = Vec::new();
    for (field, value) in wanted.as_object().into_iter().flatten() {
        match field.as_str() {
            "metadata" => {
                for part in ["labels", "annotations"] {
                    let own = value[part].as_object().into_iter().flatten();
                    for (name, value) in own.filter(|(name, _)| !is_mark(name)) {
                        compare(
                            &format!("/metadata/{part}/{}", escape(name)),
                            value,
                            &live["metadata"][part][name],
                            is_secret,
                            &mut found,
                        );
                    }
                }
            }
            "status" => {}
            _ => compare(&format!("/{}", escape(field)), value, &live[field], is_secret, &mut found),
        }
    }
    found.sort();
    let more = found.len().saturating_sub(LISTED_MAX);
    found.truncate(LISTED_MAX);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

fn compare(at: &str, wanted: &Value, live: &Value, is_secret: bool, found: &mut Vec<String>) {
    match (wanted, live) {
        (Value::Object(fields), Value::Object(_)) => {
            for (name, value) in fields {
                compare(&format!("{at}/{}", escape(name)), value, &live[name], is_secret, found);
            }
        }
        (Value::Array(list), Value::Array(other)) if list.len() == other.len() => {
            for (n, (value, other)) in list.iter().zip(other).enumerate() {
                compare(&format!("{at}/{n}"), value, other, is_secret, found);
            }
        }
        _ if wanted == live => {}
        _ if is_secret => found.push(format!("{at}: changed")),
        _ => found.push(format!("{at}: {} there, {} in the snapshot", short(live), short(wanted))),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        value => {
            let text = value.to_string();
            if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(60).collect::<String>()) }
        }
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn is_mark(name: &str) -> bool {
    name.starts_with("copal.dev/") || name.starts_with("velero.io/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let wanted = json!({"kind": "ConfigMap", "metadata": {"labels": {"a/b": "1", "velero.io/restore-name": "r"}}, "data": {"k": "v"}, "l": [1, 2]});
        let live = json!({"kind": "ConfigMap", "metadata": {"uid": "u", "labels": {"a/b": "2"}}, "data": {"k": "v", "more": "x"}, "l": [1]});
        assert_eq!(
            differences(&wanted, &live),
            ["/l: [1] there, [1,2] in the snapshot", r#"/metadata/labels/a~1b: "2" there, "1" in the snapshot"#]
        );
        assert_eq!(differences(&live, &live), [""; 0]);
    }

    #[test]
    fn values_of_secrets_are_not() {
        let wanted =
            json!({"kind": "Secret", "data": {"password": "aHVudGVyMg=="}, "stringData": {"other": "hunter2"}});
        let live = json!({"kind": "Secret", "data": {"password": "c2VjcmV0"}});
        let found = differences(&wanted, &live).join(" ");
        assert!(found.contains("/data/password: changed"), "{found}");
        for value in ["aHVudGVyMg", "c2VjcmV0", "hunter2"] {
            assert!(!found.contains(value), "{found}");
        }
    }
}
