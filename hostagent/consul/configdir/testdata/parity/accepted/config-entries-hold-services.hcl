config_entries {
  bootstrap = [
    {
      kind = "terminating-gateway"
      name = "terminating"
      services = [{ name = "billing" }]
    },
    {
      kind = "ingress-gateway"
      name = "ingress"
      listeners = [{ port = 8080, protocol = "tcp", services = [{ name = "api" }] }]
    },
  ]
}
service {
  name = "web"
  port = 8080
}
