use super::*;
use hickory_proto::op::Query;
use std::str::FromStr;

fn ask(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
    message.to_vec().expect("encodes")
}

fn zone() -> Zone {
    let mut lab = banger_plan::Desired::empty(banger_wire::id::InstallId::from_bits(1));
    banger_plan::assign::choose_subnet(&mut lab, |_| true);
    let spec = banger_schema::parse(
        "x",
        "sandbox \"web\" { image \"debian-bookworm\"; }",
        banger_schema::Language::Kdl,
    )
    .expect("parses");
    let project = banger_wire::id::Name::new("shop").expect("a name");
    let desired = banger_plan::assign::assign(&lab, &project, &spec, false);
    let mut fact = banger_plan::actual::SandboxFact::absent();
    fact.vmm = banger_plan::Seen::Present(banger_plan::actual::VmmFact {
        boot: "0123456789abcdef".to_string().try_into().expect("good"),
        uptime_secs: 1,
        whole: true,
        backend: String::new(),
        lacks_template: false,
        can_suspend: false,
        is_suspended: false,
    });
    fact.tap = banger_plan::Seen::Present(banger_plan::actual::TapFact { up: true, right: true });
    let sandboxes = desired.sandboxes.keys().map(|id| (id.clone(), fact.clone())).collect();
    let actual = banger_plan::Actual { sandboxes, ..banger_plan::Actual::default() };
    banger_plan::zone::host_zone(&desired, &actual)
}

fn said(question: &[u8]) -> Message {
    match answer(question, &zone()) {
        Answer::Reply(bytes) => {
            assert!(bytes.len() <= 512 && bytes.len() <= 2 * question.len(), "R-D3");
            Message::from_vec(&bytes).expect("decodes")
        }
        other @ (Answer::Elsewhere | Answer::Nothing) => panic!("{other:?}"),
    }
}

#[test]
fn a_running_sandbox_has_its_two_names_in_any_case() {
    for name in ["web.vm.", "WEB.vm.", "web.shop.vm.", "wEb.Shop.VM."] {
        let said = said(&ask(name, RecordType::A));
        assert_eq!(said.metadata.response_code, ResponseCode::NoError, "{name}");
        let [record] = said.answers.as_slice() else { panic!("{name}: {said:?}") };
        assert_eq!(record.data, RData::A(A([10, 213, 0, 2].into())));
        assert!(record.ttl <= 5);
        assert!(said.metadata.authoritative && !said.metadata.recursion_available);
        assert_eq!(said.metadata.id, 7);
    }
    let empty = said(&ask("web.vm.", RecordType::AAAA));
    assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
}

#[test]
fn everything_else_is_said_to_be_what_it_is() {
    for (name, kind, code) in [
        ("nobody.vm.", RecordType::A, ResponseCode::NXDomain),
        ("web.other.vm.", RecordType::A, ResponseCode::NXDomain),
        ("a.web.shop.vm.", RecordType::A, ResponseCode::NXDomain),
        ("vm.", RecordType::SOA, ResponseCode::NoError),
        ("web.vm.", RecordType::ANY, ResponseCode::Refused),
        ("vm.", RecordType::AXFR, ResponseCode::Refused),
    ] {
        assert_eq!(said(&ask(name, kind)).metadata.response_code, code, "{name} {kind}");
    }
    for name in ["example.org.", "vm.example.org.", ".", "vmx."] {
        assert_eq!(answer(&ask(name, RecordType::A), &zone()), Answer::Elsewhere, "{name}");
    }
    let mut reply = ask("web.vm.", RecordType::A);
    reply[2] |= 0x80;
    assert_eq!(answer(&reply, &zone()), Answer::Nothing);
    let mut twice = ask("web.vm.", RecordType::A);
    twice[5] = 2;
    assert!(!matches!(answer(&twice, &zone()), Answer::Elsewhere));
}

#[test]
fn names_of_one_label_are_told() {
    for (name, one) in [("web.", true), (".", false), ("web.vm.", false), ("a.b.", false)] {
        assert_eq!(has_one_label(&ask(name, RecordType::A)), one, "{name}");
    }
    assert!(!has_one_label(b"short") && !has_one_label(&[0xff; 40]));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_grow(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        if let Answer::Reply(said) = answer(&bytes, &zone()) {
            proptest::prop_assert!(said.len() <= 512);
        }
    }
}
