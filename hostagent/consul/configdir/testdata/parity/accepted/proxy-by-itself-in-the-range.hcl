# It is registered first, so the sidecar gets the next port.
services {
  name = "db-envoy"
  kind = "connect-proxy"
  port = 21000
  proxy { destination_service_name = "db" }
}
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
