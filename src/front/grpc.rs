//! The contract served by the gateway: protobuf ⇄ Request and reply.
