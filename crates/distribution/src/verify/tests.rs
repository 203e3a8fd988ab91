use std::path::Path;

use super::*;
use crate::process::tests::script;

/// More than any verifier here takes, but for the one that never ends.
const PATIENCE: Duration = Duration::from_secs(20);

fn image() -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        digest: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
        size: 42,
        annotations: [("k".to_owned(), "v".to_owned())].into(),
    }
}

fn verifiers(directory: &Path) -> Verifiers {
    Verifiers { directory: directory.to_owned(), limit: Some(10), timeout: PATIENCE }
}

async fn verify(verifiers: &Verifiers) -> Result<String, String> {
    let verdict = verifiers.verify("r.test/app:1", &image()).await;
    verdict.map_err(|error| error.full_message())
}

#[tokio::test]
async fn without_verifiers_everything_may_be_pulled() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    let words = format!("no image verifier binaries found in {}", here.display());
    assert_eq!(verify(&verifiers(here)).await, Ok(words));
    let missing = here.join("missing");
    let words = format!("image verifier directory {} does not exist", missing.display());
    assert_eq!(verify(&verifiers(&missing)).await, Ok(words));
}

#[tokio::test]
async fn verifiers_are_told_what_containerd_tells_them() {
    let root = tempfile::tempdir().unwrap();
    script(&root.path().join("echo"), "echo \"$@\"; cat; echo complaint >&2");
    let digest = format!("sha256:{}", "a".repeat(64));
    let document = format!(
        r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":42,"annotations":{{"k":"v"}}}}"#
    );
    let wanted = format!(
        "echo => -name r.test/app:1 -digest {digest} -stdin-media-type \
         application/vnd.oci.descriptor.v1+json\n{document}"
    );
    assert_eq!(verify(&verifiers(root.path())).await, Ok(wanted));
}

#[tokio::test]
async fn all_must_agree() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    script(&here.join("c-third"), "echo never asked > \"$0.asked\"; exit 0");
    script(&here.join("a-first"), "echo ' reason A '");
    assert_eq!(verify(&verifiers(here)).await, Ok("a-first => reason A, c-third => ".into()));
    fs::remove_file(here.join("c-third.asked")).unwrap();
    script(&here.join("b-second"), "echo reason B; exit 7");
    let digest = image().digest;
    let wanted = format!(
        "image verifier bindir blocked pull of r.test/app:1 with digest {digest} for reason: \
         verifier b-second rejected image (exit code 7): reason B"
    );
    assert_eq!(verify(&verifiers(here)).await, Err(wanted));
    assert!(!here.join("c-third.asked").exists());
}

#[tokio::test]
async fn so_many_are_asked_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        script(&root.path().join(name), &format!("echo {name}"));
    }
    let mut verifiers = verifiers(root.path());
    for (limit, wanted) in [
        (Some(0), ""),
        (Some(2), "a => a, b => b"),
        (Some(3), "a => a, b => b, c => c"),
        (None, "a => a, b => b, c => c"),
    ] {
        verifiers.limit = limit;
        assert_eq!(verify(&verifiers).await.as_deref(), Ok(wanted), "{limit:?}");
    }
}

#[tokio::test]
async fn no_answer_is_a_no() {
    let begin = |verifier: &str| {
        format!(
            "blocking pull of r.test/app:1 with digest {}: image verifier bindir returned error: \
             failed to call verifier {verifier} (runtime ",
            image().digest
        )
    };
    for (name, text, end) in [
        ("slow", "sleep 1000", "no answer within 0.3 s"),
        ("keeps-output", "sleep 1000 & exit 0", "no answer within 0.3 s"),
        ("killed", "kill -9 $$", "signal: 9 (SIGKILL)"),
    ] {
        let root = tempfile::tempdir().unwrap();
        script(&root.path().join(name), text);
        let mut verifiers = verifiers(root.path());
        if name != "killed" {
            verifiers.timeout = Duration::from_millis(300);
        }
        let words = verify(&verifiers).await.unwrap_err();
        assert!(words.starts_with(&begin(name)) && words.ends_with(end), "{words}");
    }
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("readme"), "not a program").unwrap();
    let words = verify(&verifiers(root.path())).await.unwrap_err();
    assert!(words.ends_with("Permission denied (os error 13)"), "{words}");
    let file = root.path().join("readme");
    let words = verify(&verifiers(&file)).await.unwrap_err();
    assert!(
        words.ends_with("failed to list directory contents: Not a directory (os error 20)"),
        "{words}"
    );
}

#[tokio::test]
async fn long_reasons_are_cut() {
    let root = tempfile::tempdir().unwrap();
    script(&root.path().join("talks"), "yes | head -c 100000; yes | head -c 1000000 >&2; exit 1");
    let words = verify(&verifiers(root.path())).await.unwrap_err();
    assert!(words.ends_with("\ny(stdout truncated)"), "{}", words.len());
    assert!(words.len() < MAX_OUTPUT + 1000);
}
