use super::*;
use banger_wire::id::SandboxId;
use banger_wire::net::{HostNumber, PolicyPort};

fn port(bits: u128, host: u16, egress: Egress, groups: &[u16]) -> PolicyPort {
    let host = HostNumber::new(host).expect("good");
    PolicyPort(SandboxId::from_bits(bits), host, egress, groups.to_vec())
}

#[test]
fn the_text_holds_numbers_and_derived_names_only() {
    let install = InstallId::from_bits(9);
    let subnet = Subnet::new(0).expect("good");
    let policy = Policy {
        ports: vec![
            port(1, 2, Egress::Public, &[0]),
            port(2, 3, Egress::Open, &[0]),
            port(3, 4, Egress::None, &[]),
            port(4, 5, Egress::Host, &[]),
        ],
    };
    let near = Route { base: [9, 9, 9, 0].into(), prefix: 24, on_link: true, interface: 0 };
    let text = render("banger_0_x", &install, subnet, &policy, &BTreeSet::from([near]));
    for wanted in [
        "set open { type ipv4_addr; elements = { 10.213.0.3, 10.213.0.5 }; }",
        "set host { type ipv4_addr; elements = { 10.213.0.5 }; }",
        "set public { type ipv4_addr; elements = { 10.213.0.2 }; }",
        "set group0 { type ipv4_addr; elements = { 10.213.0.2, 10.213.0.3 }; }",
        "\"bgr000900000003\" . 02:00:00:00:00:03 . 10.213.0.4",
        "iifname \"bgr0009*\" drop",
        "9.9.9.0/24",
        "ip saddr 10.213.0.0/20 oifname != \"bgb000000000009\" masquerade",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    assert!(!render("t", &install, subnet, &Policy::default(), &BTreeSet::new()).contains("{  }"));
}

#[test]
fn a_listing_is_the_same_in_any_order_of_elements() {
    let text = |elements: &str| {
        format!(
            "table inet banger_x {{\n\tset open {{\n\t\ttype ipv4_addr\n\t\telements = {{ {elements} }}\n\t}}\n\n\
             \tchain input {{\n\t\tdrop\n\t}}\n\n\tchain mark_aaaa_bbbb {{\n\t}}\n}}\n"
        )
    };
    let one = read(&text("1.1.1.1, 2.2.2.2,\n\t\t\t     3.3.3.3"));
    let other = read(&text("3.3.3.3, 1.1.1.1, 2.2.2.2"));
    assert_eq!(one.rules, other.rules);
    assert_eq!(one.mark, Some(("aaaa".into(), "bbbb".into())));
    assert_ne!(read(&text("1.1.1.1")).rules, one.rules);
    let altered = read(&text("1.1.1.1").replace("drop", "accept"));
    assert_ne!(altered.rules, read(&text("1.1.1.1")).rules);
    assert!(!one.rules.contains("mark"));
}
