# Odd, and nothing forbids it: a sidecar for a proxy.
service {
  name = "web-proxy"
  kind = "connect-proxy"
  port = 20000
  proxy { destination_service_name = "web" }
  connect {
    sidecar_service {}
  }
}
