//! What runs in a sandbox by itself, and how: what its image says, with what its file says over it.

use crate::actual::ImageConfig;
use banger_schema::spec::SandboxSpec;
use std::collections::BTreeMap;

/// The environment of everything that runs in it.
pub fn environment(spec: &SandboxSpec, image: &ImageConfig) -> BTreeMap<String, String> {
    let all = image.env.iter().chain(&spec.env);
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Its service: the entrypoint and what follows, each the file's own or else the image's. Another entrypoint does not go
/// with the image's words for its own.
pub fn command(spec: &SandboxSpec, image: &ImageConfig) -> Vec<String> {
    let replaced = !spec.entrypoint.is_empty();
    let first = if replaced { &spec.entrypoint } else { &image.entrypoint };
    let rest = match spec.command.is_empty() {
        false => spec.command.as_slice(),
        true if replaced => &[],
        true => image.command.as_slice(),
    };
    first.iter().filter(|word| !word.is_empty()).chain(rest).cloned().collect()
}

/// Whether the file says nothing of it.
pub fn is_images_own(spec: &SandboxSpec) -> bool {
    spec.command.is_empty() && spec.entrypoint.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_wire::id::Name;

    #[test]
    fn the_file_goes_over_the_image() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let image = ImageConfig {
            entrypoint: words("/entry -x"),
            command: words("serve all"),
            env: BTreeMap::from([("A".into(), "image".into()), ("B".into(), "image".into())]),
            ..ImageConfig::default()
        };
        let mut spec = SandboxSpec::new(Name::new("i").expect("a name"));
        assert_eq!(command(&spec, &image), words("/entry -x serve all"));
        assert!(is_images_own(&spec));
        spec.command = words("other");
        assert_eq!(command(&spec, &image), words("/entry -x other"));
        spec.entrypoint = words("/mine");
        assert_eq!(command(&spec, &image), words("/mine other"));
        spec.command.clear();
        assert_eq!(command(&spec, &image), words("/mine"));
        // One empty word takes the entrypoint away.
        (spec.entrypoint, spec.command) = (vec![String::new()], words("plain"));
        assert_eq!(command(&spec, &image), words("plain"));
        spec.env.insert("A".into(), "file".into());
        let env = environment(&spec, &image);
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("file", "image"));
    }
}
