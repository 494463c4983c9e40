service {
  name = "consul"
  id   = "consul-ui"
  port = 8500
}
