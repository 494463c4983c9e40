service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        upstreams = [
          { destination_name = "a", local_bind_port = 9001 },
          { destination_name = "b", local_bind_address = "0.0.0.0", local_bind_port = 9002 },
        ]
        upstreams {
          destination_name = "c"
          local_bind_port  = 9003
        }
      }
    }
  }
}
