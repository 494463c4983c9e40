services {
  name = "odd"
  port = 21000
  connect { sidecar_service {} }
}
services {
  name = "gap"
  port = 21002
}
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
