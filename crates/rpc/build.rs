//! Generates the gRPC code from `proto/` without `protoc`: protox compiles the files to a descriptor set, which is also
//! kept for server reflection.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 3] =
    ["ottla/cluster/v1/cluster.proto", "ottla/quorum/v1/quorum.proto", "ottla/admin/v1/admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(FILES, [&proto])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
