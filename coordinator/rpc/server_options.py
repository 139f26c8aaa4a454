"""Options of gRPC's server: message sizes, keepalive, and streams per connection."""

from fedmore.protos.wire.blobs import CHUNK, MAX_MESSAGE, MAX_REQUEST

RPCS = 1 << 14
"""gRPC's own limit of concurrent calls; that of `CallLimiter` is lower and gives a reason."""

OPTIONS = (
    ("grpc.so_reuseport", 0),  # otherwise a second coordinator would silently share the port
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_REQUEST),
    # A client pings every few seconds (`fedmore.client.transport.channel`). While this process
    # is suspended, pings pile up, and gRPC would close the connection for too many of them.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 1_000),
    # Connections to vanished machines, or without any data, are closed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # Limits how much of an upload waits in memory; gRPC's estimate grows while the disk is slow.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", CHUNK),
    ("grpc.http2.max_frame_size", CHUNK),
    ("grpc.max_concurrent_streams", 32),  # per connection: a client has one and some uploads
)
