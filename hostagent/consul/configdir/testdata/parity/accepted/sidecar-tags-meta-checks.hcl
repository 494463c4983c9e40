service {
  name = "web"
  port = 8080
  tags = ["v1"]
  meta { team = "a" }
  connect {
    sidecar_service {
      tags = ["v2"]
      meta { team = "b" }
      check {
        name     = "mine"
        tcp      = "127.0.0.1:21000"
        interval = "10s"
      }
      checks = [{ alias_service = "web" }]
      weights {
        passing = 5
        warning = 0
      }
      enable_tag_override = true
      token               = "11111111-1111-1111-1111-111111111111"
    }
  }
}
