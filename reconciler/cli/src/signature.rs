//! Signatures over files, in banger's own pinned format (R-T1): base64 of an ASN.1 DER signature by ECDSA on P-256, over
//! the SHA-256 of the file's exact bytes. `openssl dgst -sha256 -verify` agrees with it.

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{DerSignature, Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey};

/// The longest signature file, in bytes (R-T14).
pub(crate) const MAX: usize = 512;

/// The text of a signature file.
///
/// # Errors
/// When the key is no P-256 key in PKCS #8 PEM.
pub(crate) fn sign(key_pem: &str, bytes: &[u8]) -> Result<String> {
    let Ok(key) = SigningKey::from_pkcs8_pem(key_pem) else {
        bail!("the key is no P-256 private key in PKCS #8 PEM");
    };
    let signature: DerSignature = key.sign(bytes);
    Ok(format!("{}\n", STANDARD.encode(signature.as_bytes())))
}

/// Whether a signature file is the key's over these bytes. It is never an identity: another one verifies as well (R-T2).
///
/// # Errors
/// What is wrong with the key or the signature.
pub(crate) fn verify(key_pem: &str, bytes: &[u8], file: &[u8]) -> Result<()> {
    let Ok(key) = VerifyingKey::from_public_key_pem(key_pem) else {
        bail!("the key is no P-256 public key in PEM");
    };
    if file.is_empty() || file.len() > MAX {
        bail!("a signature has 1 to {MAX} bytes, this one {}", file.len());
    }
    let text = file.strip_suffix(b"\n").unwrap_or(file);
    let Ok(der) = STANDARD.decode(text) else { bail!("the signature is not base64") };
    let signature = Signature::from_der(&der).ok();
    // As it would be written again: nothing behind it, and no number longer than it has to be.
    let exact = signature.filter(|signature| signature.to_der().as_bytes() == der);
    let Some(signature) = exact else {
        bail!("the signature is not exact DER of a P-256 signature")
    };
    if key.verify(bytes, &signature).is_err() {
        bail!("the signature is not this key's over this file");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn openssl(folder: &Path, line: &str) -> bool {
        let said = Command::new("sh").args(["-ec", line]).current_dir(folder).output();
        said.expect("sh").status.success()
    }

    fn keys(folder: &Path) -> (String, String) {
        let line = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem; \
                    openssl pkey -in key.pem -pubout -out public.pem";
        assert!(openssl(folder, line), "openssl makes keys");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("made");
        (read("key.pem"), read("public.pem"))
    }

    /// In both directions.
    #[test]
    fn openssl_agrees() {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, public) = keys(folder.path());
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect("writes")
        };
        let check = "base64 -d ours >ours.der; openssl dgst -sha256 -verify public.pem -signature ours.der file";
        for round in 0..20u8 {
            let bytes = vec![round; usize::from(round) * 100];
            write("file", &bytes);
            write("ours", sign(&key, &bytes).expect("signs").as_bytes());
            assert!(openssl(folder.path(), check), "openssl refuses ours");
            let theirs = "openssl dgst -sha256 -sign key.pem file | base64 -w0 >theirs";
            assert!(openssl(folder.path(), theirs));
            let signature = std::fs::read(folder.path().join("theirs")).expect("made");
            verify(&public, &bytes, &signature).expect("openssl's is good");
            let mut other = bytes.clone();
            other.push(0);
            assert!(verify(&public, &other, &signature).is_err(), "another file");
        }
    }

    #[test]
    fn whatever_is_not_exact_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, public) = keys(folder.path());
        let good = sign(&key, b"text").expect("signs");
        verify(&public, b"text", good.as_bytes()).expect("good");
        verify(&public, b"text", good.trim_end().as_bytes()).expect("a line end is optional");
        let der = STANDARD.decode(good.trim_end()).expect("base64");
        let encoded = |bytes: &[u8]| STANDARD.encode(bytes).into_bytes();
        let trailing = [der.as_slice(), &[0]].concat();
        // A zero more before the first number, and the lengths to go with it.
        let mut longer = der.clone();
        (longer[1], longer[3]) = (der[1] + 1, der[3] + 1);
        longer.insert(4, 0);
        let raw = Signature::from_der(&der).expect("exact").to_bytes().to_vec();
        let zero = [0x30, 6, 2, 1, 0, 2, 1, 0];
        for (name, file) in [
            ("empty", Vec::new()),
            ("too long", vec![b'A'; MAX + 1]),
            ("not base64", b"!!!!".to_vec()),
            ("two line ends", format!("{good}\n").into_bytes()),
            ("a blank before", format!(" {good}").into_bytes()),
            ("trailing bytes", encoded(&trailing)),
            ("not minimal", encoded(&longer)),
            ("raw r and s", encoded(&raw)),
            ("zeros", encoded(&zero)),
            ("cut off", encoded(&der[..der.len() - 1])),
        ] {
            assert!(verify(&public, b"text", &file).is_err(), "{name}");
        }
        let line = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.pem; \
                    openssl pkey -in p384.pem -pubout -out p384.pub";
        assert!(openssl(folder.path(), line));
        let other = std::fs::read_to_string(folder.path().join("p384.pub")).expect("made");
        assert!(verify(&other, b"text", good.as_bytes()).is_err(), "another curve");
        assert!(sign(&public, b"text").is_err(), "a public key signs nothing");
        let (_, stranger) = keys(folder.path());
        assert!(verify(&stranger, b"text", good.as_bytes()).is_err(), "another key");
    }
}
