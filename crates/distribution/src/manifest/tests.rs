use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A descriptor with `digit` repeated as its digest.
fn blob(digit: char, more: &str) -> String {
    let hex = digit.to_string().repeat(64);
    format!(r#"{{"mediaType":"a/b","digest":"sha256:{hex}","size":3{more}}}"#)
}

fn refused(media_type: &str, text: &str) -> String {
    Document::parse(media_type, text.as_bytes()).expect_err(text).full_message()
}

fn index(text: &str) -> Index {
    match Document::parse(INDEX, text.as_bytes()) {
        Ok(Document::Index(index)) => index,
        other => panic!("{text}: {other:?}"),
    }
}

/// The first digit of each entry's digest.
fn digits<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    entries.into_iter().map(|entry| &entry.blob.digest.hex()[..1]).collect()
}

#[test]
fn everything_that_is_said_is_read() {
    let more = r#","platform":{"os":"windows","architecture":"amd64","os.version":"10.0.17763",
        "os.features":["win32k"]},"artifactType":"c/d","urls":["https://u.test/x"],
        "annotations":{"k":"v"},"data":"YWJj"#
        .to_owned()
        + "\"";
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","artifactType":"e/f","config":{},
        "layers":[{},{}],"subject":{},"annotations":{{"a":"b"}},"unknown":[1]}}"#,
        blob('c', ""),
        blob('1', &more),
        blob('2', ""),
        blob('f', "")
    );
    let document = Document::parse(MANIFEST, text.as_bytes()).unwrap();
    assert_eq!(digits(document.entries()), "c12");
    let Document::Manifest(manifest) = document else { panic!("{document:?}") };
    let layer = &manifest.layers[0];
    let platform = layer.platform.as_ref().unwrap();
    assert_eq!(platform.to_full_string(), "windows(10.0.17763+win32k)/amd64");
    assert_eq!(layer.artifact_type.as_deref(), Some("c/d"));
    assert_eq!(layer.urls, ["https://u.test/x"]);
    assert_eq!(layer.blob.annotations["k"], "v");
    assert_eq!((layer.blob.media_type.as_str(), layer.blob.size), ("a/b", 3));
    assert_eq!(layer.data.as_deref(), Some(b"abc".as_slice()));
    assert_eq!(manifest.extras.artifact_type.as_deref(), Some("e/f"));
    assert_eq!(digits(manifest.extras.subject.as_deref()), "f");
    assert_eq!(manifest.extras.annotations["a"], "b");
}

#[test]
fn nothing_is_nothing() {
    let index = index(r#"{"mediaType":null,"manifests":null,"subject":null,"annotations":null}"#);
    assert_eq!(index, Index::default());
    let text = format!(r#"{{"config":{},"layers":null}}"#, blob('c', r#","data":"YQ==""#));
    let document = Document::parse(DOCKER, text.as_bytes()).unwrap();
    assert_eq!(digits(document.entries()), "c");
    // Data of another size than promised is not the blob.
    assert_eq!(document.entries().next().unwrap().data, None);
}

#[test]
fn what_could_be_taken_for_something_else_is_refused() {
    let (config, one) = (blob('c', ""), blob('1', ""));
    let both = format!(r#"{{"config":{config},"layers":[],"manifests":[{one}]}}"#);
    let is = |what: &str, media_type: &str| format!("media-type: expected {what} ({media_type})");
    let key = |key: &str| format!("the key {key:?} can be taken for two things");
    for (media_type, text, message) in [
        (MANIFEST, both.clone(), is("manifest but found index", MANIFEST)),
        (INDEX, both, is("index but found manifest", INDEX)),
        (DOCKER, format!(r#"{{"manifests":[{one}]}}"#), is("manifest but found index", DOCKER)),
        (LIST, format!(r#"{{"config":{config}}}"#), is("index but found manifest", LIST)),
        (INDEX, r#"{"layers":[]}"#.into(), is("index but found manifest", INDEX)),
        (INDEX, format!(r#"{{"mediaType":"{DOCKER}"}}"#), is("index but found manifest", INDEX)),
        (
            MANIFEST,
            format!(r#"{{"mediaType":"{LIST}","config":{config}}}"#),
            is("manifest but found index", MANIFEST),
        ),
        (
            MANIFEST,
            r#"{"fsLayers":[],"schemaVersion":1}"#.into(),
            "media-type: schema 1 not supported".into(),
        ),
        (SCHEMA_1[0], "{}".into(), "media-type: schema 1 not supported".into()),
        (SCHEMA_1[1], "{}".into(), "media-type: schema 1 not supported".into()),
        (INDEX, r#"{"manifests":[],"manifests":[]}"#.into(), key("manifests")),
        (INDEX, r#"{"Manifests":[]}"#.into(), key("Manifests")),
        (INDEX, r#"{"manifests":[],"LAYERS":[]}"#.into(), key("LAYERS")),
        ("text/plain", "{}".into(), "unexpected media type text/plain".into()),
    ] {
        assert_eq!(refused(media_type, &text), message, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let hex = "1".repeat(64);
    for (media_type, text, message) in [
        (INDEX, "[".to_owned(), "no such document: "),
        (INDEX, "[]".into(), "no such document: invalid type: sequence, expected an index"),
        (INDEX, "{} {}".into(), "no such document: trailing characters"),
        (INDEX, format!("{}{}", r#"{"x":"#, "[".repeat(1000)), "no such document: EOF"),
        (MANIFEST, "{}".into(), "a manifest without a config"),
        (INDEX, r#"{"manifests":[{}]}"#.into(), "\"\": no digest"),
        (INDEX, r#"{"manifests":[{"digest":"md5:00"}]}"#.into(), "\"md5:00\": no digest"),
        (
            INDEX,
            format!(r#"{{"manifests":[{{"digest":"sha256:{hex}","size":-1}}]}}"#),
            "\"sha256:1111",
        ),
        (INDEX, format!(r#"{{"manifests":[{}]}}"#, blob('1', r#","data":"*""#)), "\"sha256:1111"),
        (
            INDEX,
            format!(r#"{{"manifests":[{}]}}"#, blob('1', r#","size":4"#)),
            "no such document: duplicate field `size`",
        ),
        (
            INDEX,
            r#"{"manifests":[{"size":1.5}]}"#.into(),
            "no such document: invalid type: floating",
        ),
        (INDEX, r#"{"annotations":{"a":1}}"#.into(), "no such document: invalid type: integer"),
        (
            MANIFEST,
            format!(r#"{{"config":{},"subject":{{"digest":"x"}}}}"#, blob('c', "")),
            "\"x\": no digest",
        ),
    ] {
        let error = refused(media_type, &text);
        assert!(error.starts_with(message), "{text}: {error}");
    }
    let long = vec![b' '; MAX_DOCUMENT as usize + 1];
    let error = Document::parse(INDEX, &long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(error.to_string(), "a document of 8388609 bytes, but 8388608 are the most");
    let one = blob('1', "");
    let many = format!(r#"{{"manifests":[{}]}}"#, vec![one.as_str(); MAX_ENTRIES + 1].join(","));
    assert_eq!(refused(INDEX, &many), "it refers to more than 10000 blobs");
}

fn for_platforms(platforms: &[(char, &str)]) -> Index {
    let entry = |(digit, platform): &(char, &str)| {
        let mut parts = platform.split('/');
        let mut next = || parts.next().unwrap_or_default();
        let (os, architecture, variant) = (next(), next(), next());
        let more = match *platform {
            "" => String::new(),
            _ => format!(
                r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
            ),
        };
        blob(*digit, &more)
    };
    let list: Vec<String> = platforms.iter().map(entry).collect();
    index(&format!(r#"{{"manifests":[{}]}}"#, list.join(",")))
}

#[test]
fn the_best_manifest_comes_first() {
    let index = for_platforms(&[
        ('0', ""),
        ('1', "linux/arm/v6"),
        ('2', "linux/386"),
        ('3', "linux/arm/v7"),
        ('4', "linux/amd64"),
        ('5', "unknown/unknown"),
        ('6', "linux/amd64"),
        ('7', "windows/amd64"),
        ('8', "linux/arm64/v8"),
        ('9', "linux/amd64/v2"),
    ]);
    for (platform, wanted) in [
        ("linux/amd64", "4620"),
        ("linux/amd64/v3", "94620"),
        ("linux/arm64", "8310"),
        ("linux/arm/v7", "310"),
        ("linux/arm/v5", "0"),
        ("linux/s390x", "0"),
        ("windows/amd64", "70"),
    ] {
        let matcher = Matcher::only(&Platform::parse(platform).unwrap());
        assert_eq!(digits(index.candidates(&matcher)), wanted, "{platform}");
    }
    let strict = Matcher::only_strict(&Platform::new("linux", "amd64", ""));
    assert_eq!(digits(index.candidates(&strict)), "460");
    assert_eq!(digits(index.candidates(&Matcher::all())), "1234567890");
}

#[test]
fn attestations_are_known_by_their_platform_or_their_mark() {
    let index = for_platforms(&[('1', "unknown/unknown"), ('2', "linux/amd64"), ('3', "")]);
    let found: Vec<bool> = index.manifests.iter().map(Entry::is_attestation).collect();
    assert_eq!(found, [true, false, false]);
    let marked = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    let text = format!(r#"{{"manifests":[{}]}}"#, blob('1', marked));
    assert!(self::index(&text).manifests[0].is_attestation());
}

#[test]
fn configurations_say_what_they_run_on_and_unpack_to() {
    let hex = "d".repeat(64);
    let text = format!(
        r#"{{"architecture":"aarch64","os":"Linux","variant":"v8","os.version":"1",
        "config":{{"Env":["A=b"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}},
        "history":[{{"created_by":"x"}}]}}"#
    );
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.platform.to_full_string(), "linux(1)/arm64");
    assert_eq!(config.diff_ids.len(), 1);
    assert_eq!(config.diff_ids[0].hex(), hex);
    config.check_layers(1).unwrap();
    assert_eq!(
        config.check_layers(2).unwrap_err().to_string(),
        "number of layers and diffIDs don't match: 2 != 1"
    );
    assert_eq!(ImageConfig::parse(b"{}").unwrap().diff_ids, []);
    for (text, message) in [
        ("", "no such document: EOF"),
        ("7", "no such document: invalid type"),
        (r#"{"rootfs":{"diff_ids":["sha256:0"]}}"#, "\"sha256:0\": no diff ID"),
    ] {
        let error = ImageConfig::parse(text.as_bytes()).expect_err(text).full_message();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}
