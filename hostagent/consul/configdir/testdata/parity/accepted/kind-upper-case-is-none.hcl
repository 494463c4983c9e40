service {
  name = "web"
  kind = "Connect-Proxy"
  port = 8080
}
