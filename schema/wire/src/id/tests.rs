use super::*;
use proptest::prelude::*;

#[test]
fn names_follow_the_dns_rule() {
    for good in ["a", "web", "web-1", "a234567890123456789012345678901"] {
        assert!(Name::new(good).is_ok(), "{good}");
    }
    for bad in ["", "Web", "1web", "web-", "we_b", "wéb", "localhost", "wpad", "a b", "a.b"] {
        assert!(Name::new(bad).is_err(), "{bad}");
    }
    assert!(Name::new("a".repeat(32)).is_err());
}

#[test]
fn folder_names_become_names() {
    assert_eq!(Name::from_lossy("My Repo.git", "x").as_str(), "my-repo-git");
    assert_eq!(Name::from_lossy("123", "project").as_str(), "project");
    assert_eq!(Name::from_lossy("localhost", "project").as_str(), "project");
}

#[test]
fn ids_round_trip_through_json() {
    let id = SandboxId::from_bits(u128::MAX);
    assert_eq!(id.as_str(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
    let text = serde_json::to_string(&id).expect("encodes");
    assert_eq!(serde_json::from_str::<SandboxId>(&text).expect("decodes"), id);
    assert!(serde_json::from_str::<SandboxId>("\"../../etc\"").is_err());
    assert!(serde_json::from_str::<Cid>("2").is_err());
}

proptest! {
    #[test]
    fn lossy_names_are_always_valid(text in ".*") {
        let name = Name::from_lossy(&text, "project");
        prop_assert!(Name::new(name.as_str()).is_ok());
    }

    #[test]
    fn distinct_bits_give_distinct_ids(a: u128, b: u128) {
        prop_assert_eq!(SandboxId::from_bits(a).bits(), a);
        prop_assert_eq!(a == b, SandboxId::from_bits(a) == SandboxId::from_bits(b));
    }
}
