service {
  id      = "web-1"
  name    = "web"
  address = "10.0.0.9"
  port    = 8080
  connect {
    sidecar_service {
      name    = "web-proxy"
      address = "10.0.0.10"
      port    = 20000
      proxy {
        destination_service_name = "other"
        destination_service_id   = "other-1"
        local_service_address    = "10.0.0.11"
        local_service_port       = 8181
      }
    }
  }
}
