service {
  name = "ingress"
  kind = "ingress-gateway"
  port = 8443
  meta { consul-wan-federation = "1" }
}
