service {
  name = "web-envoy"
  kind = "connect-proxy"
  port = 20000
  proxy_destination = "web"
}
