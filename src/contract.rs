//! The contract `undertone.telephony.v1`: its generated types, their conversion to words, and the server that every backend shares.

/// Generated from `proto/undertone/telephony/v1/telephony.proto`.
#[expect(missing_docs, reason = "generated; the proto file has the documentation")]
pub mod proto {
    tonic::include_proto!("undertone.telephony.v1");

    /// The compiled descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/telephony.bin"));
}
