services = [
  {
    name = "a"
    port = 1
    connect = { sidecar_service = { proxy = { upstreams = [{ destination_name = "b", local_bind_port = 0x2329 }] } } }
  },
  { name = "b", port = 2, connect { sidecar_service {} } },
]
