# What stands in a sidecar is checked only when the agent starts.
service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      check { name = "no kind of check" }
    }
  }
}
