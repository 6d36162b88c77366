//! Compiles the telephony contract. `protox` is a protobuf compiler in Rust: no `protoc` to
//! install.

#[cfg(feature = "io")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const CONTRACT: &str = "undertone/telephony/v1/telephony.proto";
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile([CONTRACT], ["proto"])?;
    let bytes = prost_free_encode(&descriptors);
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("telephony.bin"), bytes)?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

#[cfg(feature = "io")]
fn prost_free_encode(descriptors: &impl protox::prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}

#[cfg(not(feature = "io"))]
fn main() {}
