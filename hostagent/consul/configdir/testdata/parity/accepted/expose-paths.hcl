service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        expose {
          checks = true
          paths = [
            { path = "/health", local_path_port = 8080, listener_port = 21500 },
            { path = "/metrics", protocol = "http2", local_path_port = 8080, listener_port = 21501 },
          ]
        }
      }
    }
  }
}
