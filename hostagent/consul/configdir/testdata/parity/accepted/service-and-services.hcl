service {
  name = "a"
  port = 1
  connect { sidecar_service {} }
}
services {
  name = "b"
  port = 2
  connect { sidecar_service {} }
}
