ports {
  sidecar_min_port = 20
  sidecar_max_port = 65535
}
services {
  name = "a"
  port = 20
  connect { sidecar_service {} }
}
