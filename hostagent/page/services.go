// SPDX-License-Identifier: MPL-2.0

package page

import (
	"strconv"
	"strings"
)

// services draws for each mesh service how the network reaches it: over its sidecars, and around them.
func (m *markup) services(level int, h *Host) {
	if len(h.Services) == 0 && h.Unknown == "" {
		return
	}
	m.begin("section", class("services"))
	m.heading(level, "Mesh services")
	if h.Unknown != "" {
		m.leaf("p", "Services are not known: "+h.Unknown, class("bad"))
	}
	if len(h.Services) > 0 {
		m.raw("<ul>")
		for i := range h.Services {
			m.service(&h.Services[i])
		}
		m.end("ul")
	}
	m.end("section")
}

func (m *markup) service(s *Service) {
	m.raw("<li><div>")
	m.leaf("b", s.Name)
	if s.ID != s.Name && s.ID != "" {
		m.raw(" ")
		m.leaf("small", s.ID)
	}
	m.raw("</div><div>")
	switch {
	case !s.Told:
		m.leaf("p", "how it is reached is not told: its host reports counts only", class("quiet"))
	case len(s.In)+len(s.Around) == 0:
		m.leaf("p", "no sidecar, and nothing that the network reaches", class("quiet"))
	}
	for i := range s.In {
		m.wayIn(&s.In[i], s)
	}
	for i := range s.Around {
		m.wayAround(&s.Around[i])
	}
	for _, note := range s.Notes {
		m.leaf("p", note, class("quiet"))
	}
	m.raw("</div>\n")
}

// wayIn draws network → sidecar → application. The id that Consul itself gives to a sidecar says nothing more than its service.
func (m *markup) wayIn(way *WayIn, s *Service) {
	switch {
	case !way.Open:
		m.begin("ol", class("way shut"))
	case way.Trouble != "":
		m.begin("ol", class("way broken"))
	case way.Path:
		m.begin("ol", class("way path"))
	default:
		m.begin("ol", class("way"))
	}
	m.raw("<li>network<li>")
	m.raw("sidecar <code>")
	if way.Port > 0 {
		m.text(":", strconv.Itoa(way.Port))
	} else {
		m.raw("no port")
	}
	m.raw("</code>")
	if way.Sidecar != s.ID+"-sidecar-proxy" {
		m.raw(" ")
		m.leaf("small", way.Sidecar)
	}
	if way.Path {
		m.raw(" <small>exposed path, no mTLS</small>")
	}
	m.raw("<li>")
	m.listeners(s.Listeners)
	if way.Says != "" || way.Trouble != "" {
		m.raw(`<li class="s">`)
		m.text(way.Says)
		if way.Open && way.Trouble != "" {
			m.raw(", but ")
			m.leaf("code", way.Trouble)
		}
	}
	m.end("ol")
}

func (m *markup) listeners(listeners []string) {
	const most = 4
	if len(listeners) == 0 {
		m.raw("application")
		return
	}
	m.leaf("code", strings.Join(listeners[:min(len(listeners), most)], ", "))
	if more := len(listeners) - most; more > 0 {
		m.text(" and ", strconv.Itoa(more), " more")
	}
}

// wayAround draws network → application, in red where nothing stands before it.
func (m *markup) wayAround(way *WayAround) {
	says := ""
	switch way.State {
	case "mitigated":
		m.begin("ol", class("way held"))
		says = "held back by the guard"
	case "exempt":
		m.begin("ol", class("way exempt"))
		says = "exempt"
	default:
		m.begin("ol", class("way around"))
		says = "open, around the sidecar"
	}
	m.raw("<li>network<li>")
	m.leaf("code", way.At)
	m.raw(`<li class="s">`)
	m.text(says, " ")
	m.leaf("small", way.Finding)
	m.end("ol")
}
