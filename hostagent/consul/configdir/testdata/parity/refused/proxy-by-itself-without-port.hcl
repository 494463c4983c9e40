service {
  name = "web-envoy"
  kind = "connect-proxy"
  proxy { destination_service_name = "web" }
}
