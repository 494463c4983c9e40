service {
  name        = "web"
  socket_path = "/run/web.sock"
  connect {
    sidecar_service {
      proxy {
        local_service_address = "127.0.0.1"
        local_service_port    = 9090
      }
    }
  }
}
