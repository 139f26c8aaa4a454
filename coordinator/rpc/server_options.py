"""How gRPC's server is set up: sizes, keepalive, and what one connection may have open."""

from fedmore.protos.wire.blobs import CHUNK, MAX_MESSAGE, MAX_REQUEST

RPCS = 1 << 14
"""Calls at once that gRPC itself takes; `crowd.TOTAL` is lower and says who was refused."""

OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second coordinator would quietly share the port
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_REQUEST),
    # A client pings every few seconds (`fedmore.client.transport.channel`). While this process
    # stands still its pings pile up, and gRPC would hang up on it for too many of them.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 1_000),
    # Whose machine is gone without a word, or who connects and says nothing, is hung up on.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # What of an upload may wait in memory; gRPC's own estimate grows while the disk is slow.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", CHUNK),
    ("grpc.http2.max_frame_size", CHUNK),
    ("grpc.max_concurrent_streams", 32),  # of one connection: a client has one, and some uploads
)
