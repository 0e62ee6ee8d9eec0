//! Files that Kafka 4.3's own classes wrote, and what its `DumpLogSegments` prints of them, recorded: see
//! `test_data/dump-log/recorded.txt`.

use std::cell::RefCell;

use super::*;

const RECORDED: &str = include_str!("../test_data/dump-log/recorded.txt");

fn directory() -> String {
    format!("{}/src/kafka_tools/test_data/dump-log", env!("CARGO_MANIFEST_DIR"))
}

/// Standard output, standard error and exit code in the form of the record.
fn told(line: &str) -> String {
    let directory = directory();
    let plan = crate::kafka_tools::planned(SPECS, &line.replace("DIR", &directory), plan).expect("a plan");
    let written = RefCell::new(Vec::new());
    let mut out = Text::to(|bytes| written.borrow_mut().extend_from_slice(bytes));
    let result = dump(&plan, &mut out);
    out.finish();
    let (wrong, code) = match result {
        Ok(complaints) => (complaints, 0),
        Err(error) => (vec![error.to_string()], 1),
    };
    let mut text = String::from_utf8(written.into_inner()).expect("text");
    if !wrong.is_empty() {
        text += &format!("stderr:\n{}\n", wrong.join("\n"));
    }
    format!("{text}exit: {code}\n").replace(&directory, "DIR")
}

#[test]
fn files_are_shown_as_kafkas_tool_shows_them() {
    let mut cases = 0;
    for case in RECORDED.split("$ ").skip(1) {
        let (line, expected) = case.split_once('\n').expect("a line");
        assert_eq!(told(line), format!("{}\n", expected.trim_end()), "kafka-dump-log {line}");
        cases += 1;
    }
    assert_eq!(cases, 21);
}

#[test]
fn what_a_file_cannot_show_is_named() {
    let log = "--files DIR/00000000000000000005.log";
    assert!(
        told("--files DIR/damaged/00000000000000000005.index --max-message-size 100").contains("--max-message-size")
    );
    assert!(told("--files DIR/00000000000000000009.log").contains("DIR/00000000000000000009.log: No such file"));
    assert!(told("--files DIR/x.log").contains("does not begin with an offset"));
    assert!(told(&format!("{log} --key-decoder-class org.apache.kafka.tools.api.LongDecoder")).contains("are too few"));
    assert!(told("--files DIR/00000000000000000041.snapshot").contains("checksum"));
    // A damaged batch is shown, and named as damaged.
    assert!(told("--files DIR/damaged/00000000000000000005.log").contains("isvalid: false"));
}

#[test]
fn command_lines_are_checked() {
    let refused = |line: &str| crate::kafka_tools::planned(SPECS, line, plan).err().unwrap_or_default();
    assert_eq!(refused("--print-data-log"), "Missing required argument \"[files]\"");
    assert!(refused("--files x --cluster-metadata-decoder").contains("cluster-metadata-decoder is not supported"));
    assert!(refused("--files x --value-decoder-class org.example.Avro").contains("org.example.Avro"));
    assert!(refused("--files x --max-bytes many").contains("Cannot parse"));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let told = check(&words("--nosuch")).map_err(|error| error.to_string());
    assert_eq!(told, Err("nosuch is not a recognized option".to_owned()));
    assert!(check(&words("--print-data-log")).is_err() && check(&words("--files x")).is_ok());
    assert!(check(&[]).is_ok() && check(&words("--help")).is_ok());
}
