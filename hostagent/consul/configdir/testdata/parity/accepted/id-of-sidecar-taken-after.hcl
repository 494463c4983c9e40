# Its port is free again for the next one.
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
services {
  id   = "web-sidecar-proxy"
  name = "mine"
  port = 9999
}
services {
  name = "db"
  port = 5432
  connect { sidecar_service {} }
}
