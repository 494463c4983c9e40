ports {
  sidecar_min_port = 0
  sidecar_max_port = 0
}
service {
  name = "a"
  port = 1
  connect {
    sidecar_service { port = 21000 }
  }
}
