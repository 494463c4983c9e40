ports {
  sidecar_min_port = 25000
  sidecar_max_port = 25000
}
services {
  name = "a"
  port = 1
  connect { sidecar_service {} }
}
services {
  name = "b"
  port = 2
  connect { sidecar_service {} }
}
