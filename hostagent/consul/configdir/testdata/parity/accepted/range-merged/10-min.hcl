ports { sidecar_min_port = 25000 }
service {
  name = "a"
  port = 1
  connect { sidecar_service {} }
}
