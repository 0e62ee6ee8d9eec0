//! `docs/admin-api.md` is generated from the comments of `proto/ottla/admin/v1/admin.proto`: run this with
//! `OTTLA_WRITE_DOCS=1` to regenerate it.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/admin-api.md");

/// Numbers of fields in descriptors, of which the paths to comments consist.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const SYNTAX: i32 = 12;
const MEMBERS: i32 = 2;

/// The comments of a file by the path of what they are about.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = |location: &prost_types::source_code_info::Location| {
            let detached = location.leading_detached_comments.iter().map(String::as_str);
            let all = detached.chain(location.leading_comments.as_deref()).chain(location.trailing_comments.as_deref());
            let lines: Vec<&str> = all.flat_map(str::lines).map(str::trim).collect();
            (location.path.clone(), lines.join("\n").trim().to_owned())
        };
        Self(locations.map(comment).collect())
    }

    fn about(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }

    fn in_one_line(&self, path: &[i32]) -> String {
        self.about(path).replace('\n', " ").replace('|', "\\|")
    }
}

fn index(at: usize) -> i32 {
    i32::try_from(at).expect("few")
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let entry = message.nested_type.iter().find(|nested| nested.name() == name && nested.options.is_some());
    if let Some([key, value]) = entry.map(|entry| entry.field.as_slice()) {
        return format!("map of {} to {}", type_of(message, key), type_of(message, value));
    }
    if field.label() == Label::Repeated { format!("repeated {name}") } else { name }
}

fn wrapped(text: &str) -> String {
    const COLUMNS: usize = 120;
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        let mut columns = 0;
        for word in paragraph.split_whitespace() {
            let length = word.chars().count();
            if columns > 0 {
                let fits = columns + 1 + length <= COLUMNS;
                out.push(if fits { ' ' } else { '\n' });
                columns = if fits { columns + 1 } else { 0 };
            }
            out.push_str(word);
            columns += length;
        }
        out.push_str("\n\n");
    }
    out
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string takes all text");
}

fn put_message(page: &mut String, message: &DescriptorProto, at: usize, comments: &Comments) {
    let path = [MESSAGES, index(at)];
    line(page, format_args!("### {}\n", message.name()));
    if !comments.about(&path).is_empty() {
        page.push_str(&wrapped(comments.about(&path)));
    }
    if message.field.is_empty() {
        page.push_str("No fields.\n\n");
        return;
    }
    page.push_str("| field | type | |\n|---|---|---|\n");
    for (at, field) in message.field.iter().enumerate() {
        let about = comments.in_one_line(&[path[0], path[1], MEMBERS, index(at)]);
        let about = match (field.oneof_index.is_some(), about.is_empty()) {
            (true, true) => "one of these".to_owned(),
            (true, false) => format!("one of these; {about}"),
            (false, _) => about,
        };
        line(page, format_args!("| `{}` | {} | {about} |", field.name(), type_of(message, field)));
    }
    page.push('\n');
}

fn put_enum(page: &mut String, list: &EnumDescriptorProto, at: usize, comments: &Comments) {
    line(page, format_args!("### {}\n\n| value | |\n|---|---|", list.name()));
    for (value_at, value) in list.value.iter().enumerate() {
        let about = comments.in_one_line(&[ENUMS, index(at), MEMBERS, index(value_at)]);
        line(page, format_args!("| `{}` | {about} |", value.name()));
    }
    page.push('\n');
}

const BEGINNING: &str = "\
`crates/rpc/tests/admin_api.rs` generates this page from `proto/ottla/admin/v1/admin.proto`. The coordinators serve the
API by gRPC on their client port, with server reflection and the standard health service:

    grpcurl -plaintext coordinator-1:2181 list
    grpcurl -plaintext coordinator-1:2181 ottla.admin.v1.Admin/ClusterHealth
    grpcurl -plaintext -d '{\"name\": \"t\", \"partitions\": 3, \"request_id\": \"1\"}' \\
      coordinator-1:2181 ottla.admin.v1.Admin/CreateTopic

Where `cluster.secret` is set, calls that alter the cluster, and those that ask brokers (ListGroups, DescribeGroup,
DescribeLogDirs), need it in the metadata `ottla-secret-bin`. A coordinator asks brokers with its own certificate or
user ([security.md](security.md#what-coordinators-ask-brokers)): without a listener that it can speak to these three
calls are refused (`NO_USABLE_LISTENER`), and with an authorizer brokers may refuse them. The configuration of brokers
is altered at brokers (`ALTERED_AT_BROKERS`).

";

fn page() -> String {
    let set = FileDescriptorSet::decode(ottla_rpc::FILE_DESCRIPTOR_SET).expect("written by the build");
    let file = set.file.iter().find(|file| file.name() == "ottla/admin/v1/admin.proto").expect("the API's file");
    let comments = Comments::of(file);
    let mut page = format!("# The admin API\n\n{BEGINNING}");
    page.push_str(&wrapped(comments.about(&[SYNTAX])));
    for (service_at, service) in file.service.iter().enumerate() {
        page.push_str("## Calls\n\n| call | request | answer | |\n|---|---|---|---|\n");
        for (at, method) in service.method.iter().enumerate() {
            let about = comments.in_one_line(&[SERVICES, index(service_at), MEMBERS, index(at)]);
            let stream = if method.server_streaming() { "stream of " } else { "" };
            let (input, output) = (short(method.input_type()), short(method.output_type()));
            line(&mut page, format_args!("| `{}` | {input} | {stream}{output} | {about} |", method.name()));
        }
        page.push('\n');
    }
    page.push_str("## Messages\n\n");
    file.message_type.iter().enumerate().for_each(|(at, message)| put_message(&mut page, message, at, &comments));
    file.enum_type.iter().enumerate().for_each(|(at, list)| put_enum(&mut page, list, at, &comments));
    page.trim_end().to_owned() + "\n"
}

#[test]
fn the_page_says_what_the_file_says() {
    ottla_test_support::generated(PATH, &page());
}

#[test]
fn every_call_is_described() {
    let page = page();
    let calls: Vec<&str> = page.lines().filter(|line| line.starts_with("| `") && line.contains("Response |")).collect();
    assert!(calls.len() > 15, "{calls:#?}");
    let silent: Vec<&&str> = calls.iter().filter(|line| line.ends_with("|  |")).collect();
    assert!(silent.is_empty(), "{silent:#?}");
}
