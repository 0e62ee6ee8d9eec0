//! The admin API of the coordinators, with a client that Python's tools generate from `proto/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ottla_e2e::clients::{have, python, run, run_script};
use ottla_e2e::{Cluster, ClusterOptions, wait};
use ottla_test_support::skipped;

fn small() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions { coordinators: 3, brokers: 1, ..ClusterOptions::default() })
}

fn has_grpc() -> bool {
    let imports = "import grpc_health, grpc_reflection, grpc_status, grpc_tools";
    Command::new(python()).args(["-c", imports]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_generated_client_administers_the_cluster() -> Result<()> {
    if !has_grpc() {
        skipped("Python has no grpcio-tools: `make prepare` installs them");
        return Ok(());
    }
    let cluster = small()?;
    let at = cluster.bootstrap();
    // A group with a committed offset, and a record after it.
    run_script("create_topic.py", &[&at, "read", "1", "1"])?;
    let tool = |name: &str, arguments: &[&str], input: &str| -> Result<String> {
        let mut command = ottla_e2e::clients::tool(name, &at, arguments)?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), input)?;
        let output = command.stdin(std::fs::File::open(file.path())?).output()?;
        ensure!(output.status.success(), "{name}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    tool("kafka-console-producer", &["--topic", "read"], "one\ntwo\nthree\n")?;
    let read = ["--topic", "read", "--from-beginning", "--max-messages", "2", "--group", "readers"];
    ensure!(tool("kafka-console-consumer", &read, "")? == "one\ntwo\n");

    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let told = run_script("admin_api.py", &[&cluster.coordinator_address(3), &proto.display().to_string()])?;
    let wanted = "\
        reflection grpc.health.v1.Health ottla.admin.v1.Admin ottla.cluster.v1.Cluster ottla.quorum.v1.Quorum\n\
        health SERVING\n\
        created python 3 {'retention.ms': '60000'}\n\
        again ALREADY_EXISTS ottla/TOPIC_ALREADY_EXISTS\n\
        pages [[0, 1], [2]]\n\
        config cleanup.policy=delete,compact retention.ms=60000\n\
        directories 1 True\n\
        groups [('readers', 'Empty')]\n\
        lag [('read', 0, 2, 3, 1)]\n\
        unknown NOT_FOUND ottla/GROUP_ID_NOT_FOUND\n\
        cluster HEALTH_OK 1 3\n\
        node /brokers/topics/python 1\n\
        deleted True\n";
    ensure!(told == wanted, "wanted\n{wanted}\ngot\n{told}");
    Ok(())
}

/// Without a file of the API at hand: the coordinator describes itself.
#[test]
fn grpcurl_works_bare() -> Result<()> {
    let program = std::env::var("OTTLA_GRPCURL").unwrap_or_else(|_| "grpcurl".to_owned());
    if !have(&program) {
        skipped("grpcurl is not on the path, and `make test` builds it only where Go is");
        return Ok(());
    }
    let cluster = small()?;
    let at = &cluster.coordinator_address(1);
    let grpcurl = |arguments: &[&str]| run(Command::new(&program).arg("-plaintext").args(arguments));
    let listed = grpcurl(&[at, "list"])?;
    for service in ["grpc.health.v1.Health", "ottla.admin.v1.Admin", "ottla.cluster.v1.Cluster"] {
        ensure!(listed.lines().any(|line| line == service), "{listed}");
    }
    let described = grpcurl(&[at, "describe", "ottla.admin.v1.Admin.ListTopics"])?;
    ensure!(described.contains("The topics by name"), "{described}");
    // The leader counts only members and brokers that it has heard since its election.
    wait::until_ok("the cluster is healthy", || {
        let health = grpcurl(&[at, "ottla.admin.v1.Admin/ClusterHealth"])?;
        ensure!(health.contains("\"health\": \"HEALTH_OK\""), "{health}");
        Ok(())
    })
}
