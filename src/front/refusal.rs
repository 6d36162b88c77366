//! One table: refusal → statusCode + HTTP · gRPC code · Bayeux error.
