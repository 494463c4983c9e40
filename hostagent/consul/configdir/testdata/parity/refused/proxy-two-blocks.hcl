service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy { local_service_port = 1 }
      proxy { local_service_address = "127.0.0.2" }
    }
  }
}
