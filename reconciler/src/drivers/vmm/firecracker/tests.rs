use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// A definition of the OpenAPI file: its properties, and those that must be there.
#[derive(Debug, Default)]
struct Definition {
    properties: BTreeSet<String>,
    required: BTreeSet<String>,
}

/// The definitions of a Swagger file in YAML, as Firecracker's is written: two spaces for each level.
fn definitions(text: &str) -> BTreeMap<String, Definition> {
    let mut found: BTreeMap<String, Definition> = BTreeMap::new();
    let (mut name, mut part) = (String::new(), "");
    for line in text.lines().skip_while(|line| *line != "definitions:").skip(1) {
        let depth = line.len() - line.trim_start().len();
        let word = line.trim_start().trim_end_matches(':');
        match (depth, part) {
            (2, _) if line.ends_with(':') => (name, part) = (word.to_string(), ""),
            (4, _) => {
                part = match word {
                    "properties" => "properties",
                    "required" => "required",
                    _ => "",
                };
            }
            (6, "properties") if line.ends_with(':') => {
                found.entry(name.clone()).or_default().properties.insert(word.to_string());
            }
            (6, "required") => {
                let word = word.trim_start_matches("- ").to_string();
                found.entry(name.clone()).or_default().required.insert(word);
            }
            _ => {}
        }
    }
    found
}

fn fields(value: &impl Serialize) -> BTreeSet<String> {
    let value = serde_json::to_value(value).expect("encodes");
    value.as_object().expect("an object").keys().cloned().collect()
}

/// Every request that we can send, by the name of its definition.
fn all() -> Vec<(&'static str, BTreeSet<String>)> {
    let text = String::new;
    let bucket = || TokenBucket { size: 1, refill_time: 1 };
    vec![
        ("Logger", fields(&Logger { log_path: text(), level: text(), show_level: true })),
        ("Metrics", fields(&Metrics { metrics_path: text() })),
        ("MachineConfiguration", fields(&MachineConfig { vcpu_count: 1, mem_size_mib: 1 })),
        (
            "BootSource",
            fields(&BootSource {
                kernel_image_path: text(),
                initrd_path: text(),
                boot_args: text(),
            }),
        ),
        (
            "Drive",
            fields(&Drive {
                drive_id: text(),
                path_on_host: text(),
                is_root_device: false,
                is_read_only: false,
                cache_type: text(),
                rate_limiter: RateLimiter::of(1),
            }),
        ),
        (
            "NetworkInterface",
            fields(&NetworkInterface {
                iface_id: text(),
                host_dev_name: text(),
                guest_mac: text(),
                rx_rate_limiter: RateLimiter::of(1),
                tx_rate_limiter: RateLimiter::of(1),
            }),
        ),
        ("Vsock", fields(&Vsock { guest_cid: 3, uds_path: text() })),
        ("TokenBucket", fields(&bucket())),
        ("RateLimiter", fields(&RateLimiter::of(1))),
        ("SerialDevice", fields(&Serial { rate_limiter: bucket() })),
        ("InstanceActionInfo", fields(&Action { action_type: text() })),
        ("Vm", fields(&Vm { state: text() })),
        (
            "SnapshotCreateParams",
            fields(&SnapshotCreate {
                snapshot_type: text(),
                snapshot_path: text(),
                mem_file_path: text(),
            }),
        ),
        ("MemoryBackend", fields(&MemoryBackend { backend_type: text(), backend_path: text() })),
        ("NetworkOverride", fields(&NetworkOverride { iface_id: text(), host_dev_name: text() })),
        (
            "SnapshotLoadParams",
            fields(&SnapshotLoad {
                snapshot_path: text(),
                mem_backend: MemoryBackend { backend_type: text(), backend_path: text() },
                resume_vm: true,
                network_overrides: vec![NetworkOverride {
                    iface_id: text(),
                    host_dev_name: text(),
                }],
            }),
        ),
    ]
}

/// Against Firecracker's own OpenAPI file, which `BANGER_FIRECRACKER_API` names.
#[test]
fn every_request_is_one_of_firecrackers() {
    let Some(path) = std::env::var_os("BANGER_FIRECRACKER_API") else {
        return eprintln!("NOT RUN: BANGER_FIRECRACKER_API names no OpenAPI file");
    };
    let text = std::fs::read_to_string(path).expect("the file reads");
    let definitions = definitions(&text);
    assert!(definitions.len() > 20, "{:?}", definitions.keys());
    for (name, fields) in all() {
        let definition = definitions.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let unknown: Vec<_> = fields.difference(&definition.properties).collect();
        assert!(unknown.is_empty(), "{name} has no {unknown:?}");
        let missing: Vec<_> = definition.required.difference(&fields).collect();
        assert!(missing.is_empty(), "{name} needs {missing:?}");
    }
}

#[test]
fn definitions_are_read() {
    let text = "paths:\n  /a:\ndefinitions:\n  A:\n    type: object\n    required:\n      - one\n    properties:\n      one:\n        type: string\n      two:\n        type: object\n        properties:\n          three:\n            type: string\n  B:\n    type: object\n";
    let found = definitions(text);
    assert_eq!(found["A"].properties, ["one", "two"].map(String::from).into());
    assert_eq!(found["A"].required, ["one"].map(String::from).into());
}

/// A VMM that was stopped takes connections and answers nothing.
#[tokio::test(start_paused = true)]
async fn one_that_answers_nothing_is_not_waited_for() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut api = Api::over(ours).await.expect("connects");
    let begun = tokio::time::Instant::now();
    let fault = api.set_running(true).await.expect_err("nobody answers");
    assert!(fault.problem().message.contains("does not answer to /vm"), "{fault:?}");
    assert!((PATIENCE..PATIENCE * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    drop(theirs);
}
