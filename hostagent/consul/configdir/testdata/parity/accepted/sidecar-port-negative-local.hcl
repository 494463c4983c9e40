service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy { local_service_port = -7 }
    }
  }
}
